"""Streams: entries that arrive at a broker, the port and its adapters."""
