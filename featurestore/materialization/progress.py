"""Progress reports of long operations."""

from typing import Protocol


class Progress(Protocol):
    """Receive the progress of a job. The command line draws bars of it; a library call without one is silent."""

    def step(self, view: str, stage: str, done: int, total: int) -> None:
        """Receive the number of parts done of a stage, first 0 and last ``total``.

        Args:
            view: the view being materialized.
            stage: what is being done: ``"read"``, ``"write history"``, ``"write online"``.
            done: how many parts are done.
            total: how many there are.
        """


class Silence:
    """Show no progress."""

    def step(self, view: str, stage: str, done: int, total: int) -> None:
        """See ``Progress.step``."""
