"""Retrieval: training frames and online reads."""
