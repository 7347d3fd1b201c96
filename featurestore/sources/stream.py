"""The reader of a stream's batch source; entries of the stream itself are pushed."""

from datetime import datetime

import polars as pl

from featurestore.definitions.stream_source import StreamSource
from featurestore.errors import SourceError, SourceShapeError, did_you_mean
from featurestore.rows.unreadable import UNREAD
from featurestore.sources.base import Chunk, Cursor, ReaderAdapter, SourceContext, SourceReader, Span
from featurestore.sources.timestamps import checked


class StreamReader(ReaderAdapter):
    """The ``SourceReader`` of a stream.

    Args:
        spec: the stream.
        batch: reads its batch source; None where it has none.
    """

    def __init__(self, spec: StreamSource, batch: SourceReader | None) -> None:
        self._spec = spec
        self._batch = batch

    @classmethod
    def open(cls, source: StreamSource, context: SourceContext) -> "StreamReader":
        """See ``ReaderAdapter.open``."""
        return cls(source, None if source.batch is None else context.open_source(source.batch))

    @property
    def spec(self) -> StreamSource:
        """The source's definition."""
        return self._spec

    def schema(self) -> pl.Schema:
        """See ``SourceReader.schema``. The columns are those declared; the broker is not asked."""
        return checked(self._spec, pl.Schema(self._spec.row_schema), "its columns=", "Declare it as datetime.")

    def sample(self, rows: int) -> pl.DataFrame:
        """See ``SourceReader.sample``."""
        return pl.DataFrame(schema=self.schema()) if self._batch is None else self._fitted(self._batch.sample(rows))

    def first(self) -> datetime | None:
        """See ``SourceReader.first``."""
        return None if self._batch is None else self._batch.first()

    def span(self, cursor: Cursor | None, start: datetime | None, end: datetime, chunk_rows: int) -> Span:
        """See ``SourceReader.span``."""
        return Span((), dict(cursor or {}), 0) if self._batch is None else self._batch.span(cursor, start, end, chunk_rows)

    def read(self, chunk: Chunk, *, texts: bool = False) -> pl.DataFrame:
        """See ``SourceReader.read``."""
        if self._batch is None:
            raise SourceError(f"Source {self._spec.name!r} has no batch= any more, which a run was to read from.")
        return self._fitted(self._batch.read(chunk, texts=texts))

    def _fitted(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the batch source's rows with the stream's columns, in their types."""
        schema, batch = self.schema(), self._spec.batch
        assert batch is not None, "there are rows of it"
        for name in schema:
            if name not in rows.columns:
                raise SourceShapeError(
                    f"Source {batch.name!r} has no column {name!r}, needed as the batch= of the stream {self._spec.name!r}. "
                    f"{did_you_mean(name, rows.columns)}"
                )
        try:
            unread = [UNREAD] if UNREAD in rows.columns else []
            return rows.select(*(pl.col(name).cast(dtype) for name, dtype in schema.items()), *unread)
        except pl.exceptions.PolarsError as error:
            raise SourceShapeError(
                f"Source {batch.name!r} has other types than the stream {self._spec.name!r} that it is the batch= of: {error}"
            ) from error
