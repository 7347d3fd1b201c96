"""Retrieval: training frames and online rows, from the ports alone."""
