"""Definitions: what users write to say which features there are."""
