"""The HTTP service: look-ups, training frames, pushes and discovery. ``routes.py`` lists every route and what it needs."""
