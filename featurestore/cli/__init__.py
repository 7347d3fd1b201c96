"""The command line: what the facade does, for people at a terminal and for scripts. ``app`` lists the commands."""

from featurestore.cli.app import main

__all__ = ["main"]
