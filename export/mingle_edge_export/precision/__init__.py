"""Weights and experts in fewer bits."""
