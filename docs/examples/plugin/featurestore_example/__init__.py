"""An online store in SQLite and a source of JSON lines for featurestore."""

from featurestore_example.json_lines import JSONLSource

__all__ = ["JSONLSource"]
