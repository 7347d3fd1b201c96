"""Counters of a stream worker."""

from dataclasses import dataclass


@dataclass
class StreamCounts:
    """What a worker did since it began.

    Args:
        source: the stream's source.
        entries: the entries that it acknowledged, those set aside among them.
        rows_new: the rows that views got, counted in each view.
        rows_known: the rows that views knew already: entries that were delivered again.
        rows_rejected: the rows that failed a check in a view, and are kept there (S19).
        set_aside: the entries that were set aside.
        pushes: how often it pushed.
        seconds: the time that the pushes took.
        error: why it waits at present; empty while it works.
        waiting: the entries that it holds at present, for their rows are not known yet.
        lost: the entries that the broker dropped before they were done with, by any worker, as far as it can be determined.
    """

    source: str
    entries: int = 0
    rows_new: int = 0
    rows_known: int = 0
    rows_rejected: int = 0
    set_aside: int = 0
    pushes: int = 0
    seconds: float = 0.0
    error: str = ""
    waiting: int = 0
    lost: int = 0
