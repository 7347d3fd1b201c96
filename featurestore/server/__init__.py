"""The HTTP service: look-ups, training frames, pushes and discovery. ``endpoints/table.py`` lists every route and what it needs."""
