"""Progress reports of long operations."""

from typing import Protocol


class Progress(Protocol):
    """Is told how a job gets on. The command line draws bars of it; a library call without one is silent."""

    def step(self, view: str, stage: str, done: int, total: int) -> None:
        """Is told that so many of a stage's parts are done, first 0 and last ``total``.

        Args:
            view: the view being materialized.
            stage: what is being done: ``"read"``, ``"write history"``, ``"write online"``.
            done: how many parts are done.
            total: how many there are.
        """


class Silence:
    """Tells nobody."""

    def step(self, view: str, stage: str, done: int, total: int) -> None:
        """See ``Progress.step``."""
