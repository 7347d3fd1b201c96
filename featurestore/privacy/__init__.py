"""Privacy: forgetting entities in every store."""
