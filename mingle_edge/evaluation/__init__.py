"""Accuracy and forgetting by the protocols P1, P2 and P3."""
