"""Scheduling: which task runs when, and what becomes of it."""
