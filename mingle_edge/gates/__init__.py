"""The layer scope: gates, their adaptation, the null space that protects earlier tasks."""
