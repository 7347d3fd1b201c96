"""The reader of a query's rows, in DuckDB or on a PostgreSQL server.

A cursor is ``{"form": 2, "through": …, "former": …, "grain": …}``: the greatest effective available time (S2) of the rows
read, at most what the database's own clock and its oldest open transaction admit; that of the cursor before; and the resolution
of the rows' times. A run reads again behind it, by the declared lateness and that resolution (S18). A
chunk is either a slice of time, ``{"from": …, "to": …}`` without its end, or ``{"nulls": true}``: the rows that lack a time, or
have one outside the years 1 to 9999. All times are microseconds since the epoch.

A cursor of before, ``{"through": the run's end}``, came from the run's clock and may have passed over rows: all are read again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import polars as pl

from featurestore.clock import from_micros, to_micros
from featurestore.definitions.source import SQLSource
from featurestore.errors import SourceError
from featurestore.rows.unreadable import UNREAD, foreign_texts
from featurestore.sources.base import Chunk, Cursor, ReaderAdapter, SourceContext, Span
from featurestore.sources.sql_backends import Database, first_line, open_database, quoted_name
from featurestore.sources.timestamps import FIRST, LAST, behind, checked, normalised, raw_time_columns

_ADVICE = 'Cast it in the query: cast("t" as timestamp).'
_BUCKETS = 1_024
_DAY = 86_400_000_000
_GRAINS = (_DAY, 3_600_000_000, 60_000_000, 1_000_000, 1_000)
_STEPS = {"Date": _DAY, "Datetime(time_unit='ms', time_zone=None)": 1_000}
"""The steps that a column's type alone has times in, in microseconds."""
FORM = 2


class SQLReader(ReaderAdapter):
    """The ``SourceReader`` of a query.

    Args:
        spec: the source's definition.
        root: the project's folder, where relative paths start, those in the query too.
    """

    _columns: pl.Schema | None = None
    _foreign: dict[str, str] = {}  # noqa: RUF012 - replaced as a whole, never changed

    def __init__(self, spec: SQLSource, root: Path) -> None:
        self._spec = spec
        self._root = root

    @classmethod
    def open(cls, source: SQLSource, context: SourceContext) -> "SQLReader":
        """See ``ReaderAdapter.open``."""
        return cls(source, context.root)

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
            slices = _Slices(database, self._from_query, self._times())
            return self._fetched(database, f"where not ({slices.nulls}) limit {int(rows)}").drop(UNREAD, strict=False)

    def first(self) -> datetime | None:
        """See ``SourceReader.first``."""
        with self._opened() as (database, _):
            earliest = _Slices(database, self._from_query, self._times()).first()
        return None if earliest is None else from_micros(earliest)

    def span(self, cursor: Cursor | None, start: datetime | None, end: datetime, chunk_rows: int) -> Span:
        """See ``SourceReader.span``."""
        until = to_micros(end)
        chunks: list[Chunk] = []
        with self._opened() as (database, _):
            # NOTE: before any row is looked at; what is stamped or commits later is later than these.
            clock, horizon = database.horizon()
            former = _trusted(cursor, min(until, clock))
            grain = max(1, (cursor or {}).get("grain", 1))
            # A time told in steps may be a step, less the microsecond that is the finest, before what it tells.
            back = self._spec.lateness_micros + max(grain, *(_STEPS.get(str(dtype), 1) for dtype in self._times().values())) - 1
            after = (None if former is None else former - back) if start is None else to_micros(start)
            slices = _Slices(database, self._from_query, self._times())
            seen, edges = slices.cut(after, until + 1, max(chunk_rows, 1))
            nulls = 0 if start is not None else slices.count_nulls()
        if seen.rows:
            chunks += [{"from": low, "to": high} for low, high in pairwise([after, *edges, until + 1])]
        if nulls:
            chunks.append({"nulls": True})
        if start is not None:
            return Span(tuple(chunks), dict(cursor or {}), seen.rows + nulls, moves=False)
        known = [instant for instant in (former, seen.latest) if instant is not None]
        through = min(max(known), horizon) if known else None
        following = {"form": FORM, "through": through, "former": former, "grain": seen.grain or grain}
        return Span(tuple(chunks), following, seen.rows + nulls, behind(self._spec, cursor, min(until, clock)))

    def read(self, chunk: Chunk, *, texts: bool = False) -> pl.DataFrame:
        """See ``SourceReader.read``."""
        with self._opened(known=True) as (database, _):
            slices = _Slices(database, self._from_query, self._times())
            condition = slices.nulls if chunk.get("nulls") else slices.within(chunk["from"], chunk["to"])
            rows = self._fetched(database, f"where {condition}")
        return rows if texts else rows.drop(UNREAD, strict=False)

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
        """Open the database, and ask it for the query's columns unless those known already will do."""
        with open_database(self._spec, self._root) as database:
            if self._columns is None or not known:
                self._foreign = database.foreign(self._from_query)
                self._columns = self._selected(database, "limit 0").drop(UNREAD, strict=False).schema
            yield database, checked(self._spec, self._columns, self._where, _ADVICE)

    def _selected(self, database: Database, rest: str) -> pl.DataFrame:
        """Return rows of the query; a column of a type that is not read has its text, in a struct that says the type."""
        columns = "*"
        if self._foreign:
            texts = {name: database.text(quoted_name(name)) for name, kind in self._foreign.items() if kind}
            columns = ", ".join(
                f"{texts[name]} as {quoted_name(name)}" if name in texts else quoted_name(name) for name in self._foreign
            )
        rows = database.fetch(f"select {columns} {self._from_query} {rest}")
        return rows.with_columns(foreign_texts(pl.col(name), kind).alias(name) for name, kind in self._foreign.items() if kind)

    def _fetched(self, database: Database, rest: str) -> pl.DataFrame:
        assert self._columns is not None  # schema() has set it, or raised
        rows = self._selected(database, rest)
        for name, dtype in self._columns.items():
            if rows.schema.get(name) != dtype:
                raise SourceError(
                    f"Source {self._spec.name!r}: column {name!r} of {self._where} changed type: it was {dtype} and is "
                    f"{rows.schema.get(name, 'gone')}. Cast it in the query to one type."
                )
        unread = [UNREAD] if UNREAD in rows.columns else []
        return rows.select(*normalised(self._spec, self._columns), *unread)


def _trusted(cursor: Cursor | None, now: int) -> int | None:
    """Return how far the rows have been read for certain, by a clock that tells ``now``; None for not at all.

    A cursor ahead of the clock is one that a wrong clock made, or this one is wrong. What came before it may be right.
    """
    if not cursor or cursor.get("form") != FORM:
        return None
    return next((instant for instant in (cursor["through"], cursor["former"]) if instant is not None and instant <= now), None)


def _step_of(micros: str) -> str:
    """Return the SQL for the longest of the steps that a time is on; each is a part of the one before."""
    steps = [*_GRAINS, 1]
    cases = " ".join(f"when {micros} % {step} <> 0 then {finer}" for step, finer in reversed(list(pairwise(steps))))
    return f"case {cases} else {steps[0]} end"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of some rows that have their times.

    Args:
        rows: how many they are.
        earliest: none becomes available before, in microseconds; None where there is none.
        latest: the greatest effective available time.
        grain: the resolution of the times in their columns, the coarsest one.
    """

    rows: int
    earliest: int | None
    latest: int | None
    grain: int | None


class _Slices:
    """Divide the rows of a query by their effective available time.

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
        """The condition of the rows that lack a time, or have one that no calendar has."""
        conditions = []
        for column, dtype in self._columns.items():
            first, last = self._database.literal(FIRST, dtype), self._database.literal(LAST, dtype)
            conditions.append(f"{column} is null or {column} < {first} or {column} > {last}")
        return " or ".join(conditions)

    def within(self, low: int | None, high: int) -> str:
        """Return the condition of the rows available from ``low`` on and before ``high``; rows without a good time meet it never.

        The columns themselves are compared, so an index or a file's statistics help. With the end left out, finer precision
        needs no rounding: a time is before ``high`` exactly if its floor is.
        """
        before = [
            f"{column} >= {self._database.literal(FIRST, dtype)} and {column} < {self._database.literal(high, dtype)}"
            for column, dtype in self._columns.items()
        ]
        if low is None:
            return " and ".join(before)
        since = [f"{column} >= {self._database.literal(low, dtype)}" for column, dtype in self._columns.items()]
        return " and ".join([*before, f"({' or '.join(since)})"])

    def count_nulls(self) -> int:
        """Return how many rows lack a good time."""
        return int(self._database.fetch(f"select count(*) as n {self._from_query} where {self.nulls}").item())

    def cut(self, low: int | None, high: int, limit: int) -> tuple["_Seen", list[int]]:
        """Return what is known of the rows from ``low`` to ``high``, and the instants that divide them, ``limit`` rows apart.

        More than ``limit`` rows stay together only when they share one microsecond.
        """
        seen = self._counted(self.within(low, high))
        if seen.rows <= limit or seen.earliest is None:
            return seen, []
        begin = max(seen.earliest, FIRST if low is None else low)
        return seen, self._edges(min(begin, high - 1), high, seen.rows, limit)[0]

    def first(self) -> int | None:
        """Return an instant before which no row becomes available; None where no row has its times."""
        return self._counted(f"not ({self.nulls})").earliest

    def _counted(self, condition: str) -> "_Seen":
        """Return what is known of the rows that meet a condition; they have their times."""
        micros = [self._database.micros(column, dtype) for column, dtype in self._columns.items()]
        # NOTE: offset keeps PostgreSQL from putting the expressions in the place of their names, to be computed many times a row.
        times = ", ".join(f"{expression} as t{index}" for index, expression in enumerate(micros))
        rows = f"from (select {times} {self._from_query} where {condition} offset 0) as times"
        names = [f"t{index}" for index in range(len(micros))]
        effective = names[0] if len(names) == 1 else f"greatest({', '.join(names)})"
        bounds = ", ".join(
            f"min({expression}) as low{index}, min({_step_of(expression)}) as step{index}" for index, expression in enumerate(names)
        )
        counts = self._database.fetch(f"select count(*) as n, max({effective}) as latest, {bounds} {rows}").row(0, named=True)
        if not counts["n"]:
            return _Seen(0, None, None, None)
        earliest = max(int(counts[f"low{index}"]) for index in range(len(micros)))
        grain = max(int(counts[f"step{index}"]) for index in range(len(micros)))
        return _Seen(int(counts["n"]), earliest, int(counts["latest"]), grain)

    def _edges(self, low: int, high: int, count: int, limit: int) -> tuple[list[int], int]:
        """Return the instants that divide ``count`` rows, and how many rows lie after the last of them.

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
