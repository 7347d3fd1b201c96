"""The reader of rows in memory. Every run reads all of them; the history keeps each row once (S17).

A cursor is ``{"through": the greatest end read so far}``; a chunk names the span, and which of its rows it holds:
``{"after": …, "until": …, "nulls": …, "first": …, "rows": …}``. All times are microseconds since the epoch.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.clock import from_micros, to_micros
from featurestore.definitions.source import FrameSource
from featurestore.errors import SourceError
from featurestore.sources.base import Chunk, Cursor, ReaderAdapter, SourceContext, Span
from featurestore.sources.file_slices import pieces_of_rows
from featurestore.sources.timestamps import behind, checked, extent, no_time, normalised, wanted

_ADVICE = 'Convert it first: frame.with_columns(pl.col("t").str.to_datetime()), or pl.from_epoch("t") for a number.'


class FrameReader(ReaderAdapter):
    """The ``SourceReader`` of rows in memory.

    Args:
        spec: the source's definition, with its rows.
        root: the project's folder; a frame needs none.
    """

    def __init__(self, spec: FrameSource, root: Path) -> None:
        self._spec = spec
        self._root = root

    @classmethod
    def open(cls, source: FrameSource, context: SourceContext) -> "FrameReader":
        """See ``ReaderAdapter.open``."""
        return cls(source, context.root)

    @property
    def spec(self) -> FrameSource:
        """The source's definition."""
        return self._spec

    def schema(self) -> pl.Schema:
        """See ``SourceReader.schema``."""
        frame: pl.DataFrame = self._spec.frame
        if not frame.columns:
            raise SourceError(
                f"Source {self._spec.name!r}: its frame is not in this process; a frame lives only in the process that defined it. "
                "Apply and materialize from there, or keep the rows in a file and use a ParquetSource."
            )
        return checked(self._spec, frame.schema, "the frame", _ADVICE)

    def sample(self, rows: int) -> pl.DataFrame:
        """See ``SourceReader.sample``."""
        return self._rows().filter(~no_time(self._spec)).head(rows).collect()

    def first(self) -> datetime | None:
        """See ``SourceReader.first``."""
        earliest = extent(self._spec, self._rows()).collect().item(0, 0)
        return None if earliest is None else from_micros(earliest)

    def span(self, cursor: Cursor | None, start: datetime | None, end: datetime, chunk_rows: int) -> Span:
        """See ``SourceReader.span``."""
        until = to_micros(end)
        through = max(until, (cursor or {}).get("through") or until)
        bounds = {"after": None if start is None else to_micros(start), "until": until, "nulls": start is None}
        rows = self._within(bounds).select(pl.len()).collect().item()
        chunks = tuple({**bounds, "first": first, "rows": count} for _, first, count in pieces_of_rows([rows], chunk_rows))
        notices = behind(self._spec, cursor, until) if start is None else ()
        following = {"through": through} if start is None else dict(cursor or {})
        return Span(chunks, following, rows, notices, moves=start is None)

    def read(self, chunk: Chunk, *, texts: bool = False) -> pl.DataFrame:
        """See ``SourceReader.read``."""
        return self._within(chunk).slice(chunk["first"], chunk["rows"]).collect()

    def _rows(self) -> pl.LazyFrame:
        self.schema()
        frame: pl.DataFrame = self._spec.frame
        return frame.lazy().select(normalised(self._spec, frame.schema))

    def _within(self, bounds: Mapping[str, Any]) -> pl.LazyFrame:
        return self._rows().filter(wanted(self._spec, bounds["after"], bounds["until"], bounds["nulls"]))
