"""Rows: from a source's rows to a history's, and their order."""
