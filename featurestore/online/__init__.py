"""Online stores: the latest values."""
