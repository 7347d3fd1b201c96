"""The version of this package."""

VERSION = "0.1.0"
"""The package's metadata takes it from here. Reading it there takes a third as long as the whole command line."""
