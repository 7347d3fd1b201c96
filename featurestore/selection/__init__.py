"""Selections: from references to the features of views."""
