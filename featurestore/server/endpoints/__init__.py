"""Endpoints: one module for each."""
