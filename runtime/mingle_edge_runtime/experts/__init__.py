"""Experts in memory: adapters, page banks, mixtures, and the store that keeps what is useful within a budget."""
