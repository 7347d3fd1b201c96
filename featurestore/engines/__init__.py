"""Engines: what runs a plan's tasks, here in threads, elsewhere on a cluster."""
