"""The port of sources: a reader returns the rows that are new since a cursor."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from featurestore.clock import Clock
from featurestore.definitions.source import Source

Chunk = Mapping[str, Any]
"""A part of a span, in plain JSON values: where its rows are. Only the reader that made it understands it."""

Cursor = Mapping[str, Any]
"""How far a view has read its source, in plain JSON values. Only the reader that made it understands it.

But for one that is a time (S18): it has the microseconds under ``through``, and under ``former`` those of the cursor before it,
None at first; ``accepted`` takes it back to what a run accepted.
"""


@dataclass(frozen=True)
class Span:
    """What one run reads: pinned once, so that a repeated run reads the same rows.

    Args:
        chunks: the parts, each of about ``chunk_rows`` rows at the most, in the order they are to be read.
        cursor: how far the view will have read once the run is done, if the run accepts the rows.
        rows: how many rows the chunks hold at the most, where the source can tell cheaply.
        notices: what is worth knowing of what was not read, or may be otherwise than expected: each a sentence.
        whole: whether all that the source holds by the end is among the chunks, or was read before; not so where a file was
            set aside, or a record waits.
        keep: whether the cursor says more than the one given, and shall be kept though there may be nothing to read.
        moves: whether the cursor is another than the one given; not so where a start was given.
    """

    chunks: tuple[Chunk, ...]
    cursor: Cursor
    rows: int | None = None
    notices: tuple[str, ...] = ()
    whole: bool = True
    keep: bool = False
    moves: bool = True


def accepted(cursor: Cursor, latest: int | None) -> Cursor:
    """Return a span's cursor once it is known which of its rows the run accepted: a time goes no further than these (S18).

    Args:
        cursor: the span's cursor.
        latest: the greatest effective available time of the rows accepted, in microseconds; None where there were none.

    Example:
        >>> accepted({"through": 9, "former": 3}, 7), accepted({"through": 9, "former": 3}, None), accepted({"files": {}}, 7)
        ({'through': 7, 'former': 3}, {'through': 3, 'former': 3}, {'files': {}})
    """
    if "former" not in cursor or cursor["through"] is None:
        return cursor
    former = cursor["former"]
    known = [instant for instant in (former, latest) if instant is not None]
    return {**cursor, "through": min(cursor["through"], max(known)) if known else None}


class SourceReader(Protocol):
    """Read one source. Opening it does no I/O; the source may not even be there yet.

    Every frame it gives has the source's columns under their names after ``rename=``, and its time columns as
    ``Datetime("us", "UTC")`` (S1).
    """

    @property
    def spec(self) -> Source:
        """The source's definition."""

    def schema(self) -> pl.Schema:
        """Return the columns and their dtypes.

        Raises:
            SourceError: the source is not there, cannot be read, lacks a column that its definition names, or has a time
                column that is not a time.
        """

    def sample(self, rows: int) -> pl.DataFrame:
        """Return some rows that have good times, at most so many; none where the source is empty. Raises like ``schema``."""

    def first(self) -> datetime | None:
        """Return an instant before which no row becomes available, near the first of them; None where there is no row.

        Raises like ``schema``.
        """

    def span(self, cursor: Cursor | None, start: datetime | None, end: datetime, chunk_rows: int) -> Span:
        """Pin what a run reads: the rows since the cursor that are available by ``end``, inclusive (S18).

        A row's effective available time is the later of its available and its event time (S2). Rows that become
        available after ``end`` are left to a later run, whose cursor remembers that they are there. Rows whose time is
        null, or outside the years 1 to 9999, are read with the rows around them, for they must be rejected and counted (S19).
        Rows near the cursor may be read again; the history keeps them once (S17).

        Args:
            cursor: how far earlier runs have read; None at first.
            start: read from this available time on, inclusive, whatever the cursor says, and leave the cursor where it is
                (the span's cursor is then the one given, or empty).
            end: read up to this available time, inclusive.
            chunk_rows: about how many rows a chunk may have.

        Raises:
            SourceError: as ``schema``.
        """

    def read(self, chunk: Chunk, *, texts: bool = False) -> pl.DataFrame:
        """Return the rows of a chunk.

        Reading a chunk again gives the same rows as long as the source keeps them. A value that cannot be read as its
        column's type is null.

        Args:
            chunk: the chunk.
            texts: whether rows with such values shall tell what stood there (S19): the frame then has the column
                ``UNREAD`` of ``rows/unreadable.py`` besides, where there are any.

        Raises:
            SourceError: the rows are no longer there, or a column changed its type.
        """


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a reader is given beside its source.

    Args:
        root: the project's folder, where relative paths start.
        clock: tells the present.
        open_source: opens the reader of a source that this one is made of, as a stream's ``batch``.
        storage_options: what is to be said of object storage besides an address, none of it secret.
    """

    root: Path
    clock: Clock
    open_source: Callable[[Source], SourceReader]
    storage_options: Mapping[str, str] = field(default_factory=dict)


class ReaderAdapter(ABC):
    """What an entry point of ``featurestore.source_readers`` names: a class that opens the readers of a kind of source.

    The class is usually the reader itself. The source's own class is the entry point of the same name in ``featurestore.sources``.
    """

    @classmethod
    @abstractmethod
    def open(cls, source: Any, context: SourceContext) -> SourceReader:
        """Open the reader of a source. It does no I/O; the source may not be there yet.

        Args:
            source: the source, of the class that the entry point in ``featurestore.sources`` names.
            context: the project's folder, its clock.

        Raises:
            MissingExtraError: a library that it needs is not installed.
        """
