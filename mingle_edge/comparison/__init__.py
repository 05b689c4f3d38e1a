"""Comparing ways to merge: the paper's protocol and its peers, on anybody's tasks."""
