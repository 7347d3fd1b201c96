"""Sources: readers of rows since a cursor."""
