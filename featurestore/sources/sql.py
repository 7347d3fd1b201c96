"""Reads the rows of a query, in DuckDB or on a PostgreSQL server.

New rows are found by their effective available time (S2), less the declared lateness (S18). A cursor is ``{"through": the
greatest end read so far}``, a chunk either a slice of time, ``{"from": …, "to": …}`` without its end, or ``{"nulls": true}``:
the rows that lack a time. All times are microseconds since the epoch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import polars as pl

from featurestore.clock import INSTANT, from_micros, to_micros
from featurestore.errors import SourceError
from featurestore.sources.base import Chunk, Cursor, Span
from featurestore.sources.databases import FIRST, Database, first_line, open_database, quoted_name
from featurestore.sources.times import checked, normalised, raw_time_columns
from featurestore.sources.widen import cast
from featurestore.spec.source import SQLSource

_ADVICE = 'Cast it in the query: cast("t" as timestamp).'
_BUCKETS = 1_024


class SQLReader:
    """The ``SourceReader`` of a query.

    Args:
        spec: the source's definition.
        root: the project's folder, where relative paths start, those in the query too.
    """

    _columns: pl.Schema | None = None

    def __init__(self, spec: SQLSource, root: Path) -> None:
        self._spec = spec
        self._root = root

    @property
    def spec(self) -> SQLSource:
        """The source's definition."""
        return self._spec

    def schema(self) -> pl.Schema:
        """See ``SourceReader.schema``."""
        with self._opened() as (_, shown):
            return shown

    def sample(self, rows: int) -> pl.DataFrame:
        """See ``SourceReader.sample``."""
        with self._opened() as (database, _):
            return self._fetched(database, f"limit {int(rows)}")

    def first(self) -> datetime | None:
        """See ``SourceReader.first``."""
        with self._opened() as (database, _):
            earliest = _Slices(database, self._from_query, self._times()).first()
        return None if earliest is None else from_micros(earliest)

    def span(self, cursor: Cursor | None, start: datetime | None, end: datetime, chunk_rows: int) -> Span:
        """See ``SourceReader.span``."""
        until = to_micros(end)
        through: int | None = (cursor or {}).get("through")
        if start is None and through is not None and until < through:
            return Span((), dict(cursor or {}), 0)
        since = None if through is None else through - self._spec.lateness_micros
        after = since if start is None else to_micros(start)
        chunks: list[Chunk] = []
        with self._opened() as (database, _):
            slices = _Slices(database, self._from_query, self._times())
            count, edges = slices.cut(after, until + 1, max(chunk_rows, 1))
            nulls = 0 if start is not None else slices.count_nulls()
        if count:
            chunks += [{"from": low, "to": high} for low, high in pairwise([after, *edges, until + 1])]
        if nulls:
            chunks.append({"nulls": True})
        return Span(tuple(chunks), {"through": until} if start is None else dict(cursor or {}), count + nulls)

    def read(self, chunk: Chunk) -> pl.DataFrame:
        """See ``SourceReader.read``."""
        with self._opened(known=True) as (database, _):
            slices = _Slices(database, self._from_query, self._times())
            condition = slices.nulls if chunk.get("nulls") else slices.within(chunk["from"], chunk["to"])
            return self._fetched(database, f"where {condition}")

    @property
    def _from_query(self) -> str:
        # The line's end closes a comment that the query may end with.
        return f"from ({self._spec.query.strip().removesuffix(';')}\n) as q"

    @property
    def _where(self) -> str:
        return f"the query ({first_line(self._spec)})"

    def _times(self) -> dict[str, pl.DataType]:
        assert self._columns is not None  # schema() has set it, or raised
        return {name: self._columns[name] for name in raw_time_columns(self._spec)}

    @contextmanager
    def _opened(self, *, known: bool = False) -> Iterator[tuple[Database, pl.Schema]]:
        """Opens the database, and asks it for the query's columns unless those known already will do."""
        with open_database(self._spec, self._root) as database:
            if self._columns is None or not known:
                self._columns = database.fetch(f"select * {self._from_query} limit 0").schema
            yield database, checked(self._spec, self._columns, self._where, _ADVICE)

    def _fetched(self, database: Database, rest: str) -> pl.DataFrame:
        assert self._columns is not None  # schema() has set it, or raised
        rows = database.fetch(f"select * {self._from_query} {rest}")
        for name, dtype in self._columns.items():
            if rows.schema.get(name) != dtype:
                raise SourceError(
                    f"Source {self._spec.name!r}: column {name!r} of {self._where} changed type: it was {dtype} and is "
                    f"{rows.schema.get(name, 'gone')}. Cast it in the query to one type."
                )
        return rows.select(normalised(self._spec, self._columns))


class _Slices:
    """Divides the rows of a query by their effective available time.

    Args:
        database: where it runs.
        from_query: ``from (the query) as q``.
        times: the time columns and their dtypes.
    """

    def __init__(self, database: Database, from_query: str, times: dict[str, pl.DataType]) -> None:
        self._database = database
        self._from_query = from_query
        self._columns = {quoted_name(name): dtype for name, dtype in times.items()}

    @property
    def nulls(self) -> str:
        """The condition of the rows that lack a time."""
        return " or ".join(f"{column} is null" for column in self._columns)

    def within(self, low: int | None, high: int) -> str:
        """Returns the condition of the rows available from ``low`` on and before ``high``; rows without a time meet it never.

        The columns themselves are compared, so an index or a file's statistics help. With the end left out, finer precision
        needs no rounding: a time is before ``high`` exactly if its floor is.
        """
        before = [f"{column} < {self._database.literal(high, dtype)}" for column, dtype in self._columns.items()]
        if low is None:
            return " and ".join(before)
        since = [f"{column} >= {self._database.literal(low, dtype)}" for column, dtype in self._columns.items()]
        return " and ".join([*before, f"({' or '.join(since)})"])

    def count_nulls(self) -> int:
        """Returns how many rows lack a time."""
        return int(self._database.fetch(f"select count(*) as n {self._from_query} where {self.nulls}").item())

    def cut(self, low: int | None, high: int, limit: int) -> tuple[int, list[int]]:
        """Returns how many rows there are from ``low`` to ``high``, and the instants that divide them, ``limit`` rows apart.

        More than ``limit`` rows stay together only when they share one microsecond.
        """
        count, earliest = self._counted(self.within(low, high))
        if count <= limit:
            return count, []
        begin = max(earliest, FIRST if low is None else low)
        return count, self._edges(min(begin, high - 1), high, count, limit)[0]

    def first(self) -> int | None:
        """Returns an instant before which no row becomes available; None where no row has its times."""
        count, earliest = self._counted(f"not ({self.nulls})")
        return earliest if count else None

    def _counted(self, condition: str) -> tuple[int, int]:
        """Returns how many rows meet a condition, and an instant before which none of them becomes available."""
        bounds = ", ".join(f"min({column}) as low{index}" for index, column in enumerate(self._columns))
        told = self._database.fetch(f"select count(*) as n, {bounds} {self._from_query} where {condition}")
        count = int(told["n"].item())
        if not count:
            return 0, 0
        lows = told.select(cast(pl.col(name), told.schema[name], INSTANT).to_physical() for name in told.columns[1:]).row(0)
        return count, max(lows)

    def _edges(self, low: int, high: int, count: int, limit: int) -> tuple[list[int], int]:
        """Returns the instants that divide ``count`` rows, and how many rows lie after the last of them.

        The rows are counted in buckets of equal width, and a bucket of too many is divided again.
        """
        if count <= limit or high - low <= 1:
            return [], count
        width = -(-(high - low) // min(_BUCKETS, 4 * -(-count // limit)))
        micros = [self._database.micros(column, dtype) for column, dtype in self._columns.items()]
        effective = micros[0] if len(micros) == 1 else f"greatest({', '.join(micros)})"
        bucket = f"({effective} - ({low})) {self._database.divide} {width}"
        counts = self._database.fetch(
            f"select {bucket} as bucket, count(*) as n {self._from_query} where {self.within(low, high)} group by 1 order by 1"
        )
        edges: list[int] = []
        gathered = 0
        for number, rows in counts.iter_rows():
            begin = low + number * width
            if gathered and gathered + rows > limit:
                edges.append(begin)
                gathered = 0
            inner, rest = self._edges(begin, min(begin + width, high), rows, limit)
            edges += inner
            gathered = rest if inner else gathered + rows
        return edges, gathered
