"""The ledger of runs: each run's state, progress and staged chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from featurestore.clock import from_micros, to_micros
from featurestore.errors import RegistryError, RequestError, did_you_mean
from featurestore.offline.ledger_record import LedgerRecord
from featurestore.registry.leases import Lease, Leases
from featurestore.registry.project_database import ProjectDatabase

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row, Table

State = Literal["running", "committed", "done", "failed"]

_COMES_FROM: dict[State, tuple[State, ...]] = {
    "running": ("running", "failed"),
    "failed": ("running", "failed"),
    "committed": ("running", "committed", "failed"),
    "done": ("running", "committed"),
}
"""The states out of which a run may come into each state."""

_SPANS = 100
"""So many spans are in memory at once."""
_LAST = 20
"""How many of a view's last runs are asked what they noticed."""


@dataclass(frozen=True)
class Run:
    """A run: one span of a view's source on its way into both stores.

    Args:
        view: the view's name.
        data_version: the view's data version.
        seq: the run's number among those of the view and data version, from 1 without gaps.
        state: ``running`` until the history has its rows, ``committed`` until the online store has them too, then
            ``done``; ``failed`` where it was given up before the history had them.
        span: what it reads, pinned when it began, in plain JSON values; its cursor is settled when the history has the rows.
        rows_read: the rows read from the source.
        rows_written: those new to the history.
        rows_rejected: those rejected (S19).
        rows_online: the values written online.
        reasons: the rows rejected, by reason.
        started_at: when it began.
        finished_at: when it was done or failed.
        attempts: how often it was begun or resumed.
        error: why it failed.
    """

    view: str
    data_version: int
    seq: int
    state: State
    span: dict[str, Any]
    rows_read: int
    rows_written: int
    rows_rejected: int
    rows_online: int
    reasons: dict[str, int]
    started_at: datetime
    finished_at: datetime | None
    attempts: int
    error: str

    @property
    def id(self) -> str:
        """What tells the run from all others of the project: ``view/data version/seq``."""
        return f"{self.view}/{self.data_version}/{self.seq}"

    @property
    def folds(self) -> bool:
        """Whether it adds what was pushed to the history."""
        return any("pushed" in chunk for chunk in self.span["chunks"])

    @property
    def seconds(self) -> float | None:
        """How long it took, from its beginning to its end with all that lay between; None while it is not over."""
        return None if self.finished_at is None else (self.finished_at - self.started_at).total_seconds()


_SETTABLE = frozenset(
    {"state", "cursor", "rows_read", "rows_written", "rows_rejected", "rows_online", "reasons", "finished_at", "attempts", "error"}
)


class Ledger:
    """The runs of one project, kept beside its definitions. Thread-safe; many processes may work on one run.

    All that a run does follows from its row, so all workers on it do the same: ``begin`` and ``stage`` keep what
    was there first and give it to all, and no state ever goes back (S17).

    Args:
        registry: the project's registry, whose database and clock the ledger shares.
        lease: on whose behalf it is written to; see ``fenced``.

    Every method raises ``RegistryError`` where the database cannot be reached or holds what cannot be read.
    """

    def __init__(self, registry: ProjectDatabase, lease: Lease | None = None) -> None:
        self._registry = registry
        self._lease = lease
        self._database = registry.database
        self._run = registry.database.tables.run
        self._chunk = registry.database.tables.chunk

    def fenced(self, lease: Lease) -> "Ledger":
        """Return the same ledger for a lease's holder: a write that finds it lost raises ``LeaseLostError``, changing nothing."""
        return Ledger(self._registry, lease)

    def latest(self, view: str, data_version: int) -> Run | None:
        """Return the run with the greatest ``seq`` of a view and data version; None before the first."""
        return self._greatest(view, data_version)

    def last_done(self, view: str, data_version: int) -> Run | None:
        """Return the run with the greatest ``seq`` among those that are done; None before the first of them."""
        return self._greatest(view, data_version, "done")

    def last_committed(self, view: str, data_version: int) -> int:
        """Return the number of the last run whose rows the history has; 0 before the first of them."""
        run = self._run
        newest = run.select().where(self._written(view, data_version)).order_by(run.c.seq.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(newest).first()
        return 0 if row is None else int(row.seq)

    def recorded(self, view: str, data_version: int) -> LedgerRecord:
        """Return what all runs together have written to the history."""
        run, written = self._run, self._written(view, data_version)
        # A run's span may name very many files: those alone are read in which there are segments, some at a time.
        folds = run.select().with_only_columns(run.c.seq, run.c.span).where(written & run.c.span.like('%"pushed"%'))
        pushed = 0
        with self._database.reading() as connection:
            rows = connection.execute(run.select().with_only_columns(run.c.seq, run.c.rows_written).where(written)).all()
            for row in connection.execute(folds.execution_options(yield_per=_SPANS)):
                span = _decode(row.span, _what(view, data_version, row.seq))
                pushed = max([pushed, *(chunk["pushed"] for chunk in span["chunks"] if "pushed" in chunk)])
        return LedgerRecord({row.seq: row.rows_written for row in rows}, pushed)

    def begin(self, view: str, data_version: int, seq: int, span: dict[str, Any]) -> Run:
        """Begin a run, in the state ``running`` and with ``attempts`` at 1.

        Where that ``seq`` was begun already, here or elsewhere, nothing changes and that run is returned as it is, with
        its own span: the caller joins it. It may have gone into any state meanwhile.
        """
        key = {"project": self._registry.project, "view": view, "data_version": data_version, "seq": seq}
        fresh = {
            "state": "running", "span": _encode(span), "backfill": _backfill_of(span), "reasons": "{}", "attempts": 1, "error": "",
            "rows_read": 0, "rows_written": 0, "rows_rejected": 0, "rows_online": 0,
            "started_at": to_micros(self._registry.clock()),
        }  # fmt: skip
        with self._writing() as connection:
            self._database.insert_new(connection, self._run, {**key, **fresh})
            return self._fetch(connection, view, data_version, seq)

    def stage(self, run: Run, index: int, body: dict[str, Any]) -> dict[str, Any]:
        """Record what became of a chunk, and return what is recorded: the body of the first caller.

        A run that is done needs no record any more; then nothing is written and the body given is returned.
        """
        text = _encode(body)
        key = {"project": self._registry.project, "view": run.view, "data_version": run.data_version, "seq": run.seq, "idx": index}
        mine = self._of(self._chunk, run) & (self._chunk.c.idx == index)
        with self._writing() as connection:
            if self._fetch(connection, run.view, run.data_version, run.seq, lock=True).state != "done":
                self._database.insert_new(connection, self._chunk, {**key, "body": text})
                text = connection.execute(self._chunk.select().where(mine)).one().body
        return _decode(text, _what(run.view, run.data_version, run.seq))

    def staged(self, run: Run) -> dict[int, dict[str, Any]]:
        """Return what is recorded of a run's chunks, by index and in its order; nothing once the run is done."""
        chunk, what = self._chunk, _what(run.view, run.data_version, run.seq)
        with self._database.reading() as connection:
            rows = connection.execute(chunk.select().where(self._of(chunk, run)).order_by(chunk.c.idx)).all()
        return {row.idx: _decode(row.body, what) for row in rows}

    def update(self, run: Run, **fields: Any) -> Run:
        """Set fields of a run, and return it as it then is.

        No state goes back. ``done`` is final: nothing is set any more. What is ``committed`` becomes neither ``running`` nor
        ``failed``, for the history has it; what has ``failed`` becomes ``done`` by way of ``committed`` alone. An update
        that comes too late sets nothing at all, and returns the run as another process left it.

        Where it is not given, ``finished_at`` is now for a run that is done or failed, and None for others. A run that is
        done drops what its chunks have staged.

        Args:
            run: the run; only its view, data version and ``seq`` matter.
            fields: what to set: state, cursor (the span's), rows_read, rows_written, rows_rejected,
                rows_online, reasons, finished_at, attempts, error.

        Raises:
            TypeError: a run has no such field, or it is fixed when the run begins.
            ValueError: a run has no such state.
        """
        for unknown in fields.keys() - _SETTABLE:
            raise TypeError(f"{unknown!r} is not a settable field of a run; those are {', '.join(sorted(_SETTABLE))}.")
        state: State | None = fields.get("state")
        if "state" in fields and state not in _COMES_FROM:
            raise ValueError(f"{state!r} is not a state of a run; those are {', '.join(_COMES_FROM)}.")
        if state is not None:
            fields.setdefault("finished_at", self._registry.clock() if state in ("done", "failed") else None)
        where = self._of(self._run, run)
        with self._writing() as connection:
            if "cursor" in fields:
                pinned = self._fetch(connection, run.view, run.data_version, run.seq).span
                fields["span"] = {**pinned, "cursor": fields.pop("cursor")}
            if fields:
                now = self._run.c.state
                open_to_it = now != "done" if state is None else now.in_(_COMES_FROM[state])
                connection.execute(self._run.update().where(where & open_to_it).values(_columns(fields)))
            fresh = self._fetch(connection, run.view, run.data_version, run.seq)
            if fresh.state == "done":
                connection.execute(self._chunk.delete().where(self._of(self._chunk, run)))
        return fresh

    def find(self, view: str, data_version: int, seq: int) -> Run | None:
        """Return a run, or None where there is none of that number."""
        run = self._run
        mine = (run.c.project == self._registry.project) & (run.c.view == view)
        with self._database.reading() as connection:
            row = connection.execute(run.select().where(mine & (run.c.data_version == data_version) & (run.c.seq == seq))).first()
        return None if row is None else _read(row)

    def backfilled(self, view: str, data_version: int) -> set[tuple[int | None, int]]:
        """Return the spans of available time that runs of backfills have done, in microseconds, both bounds inclusive.

        One without a first bound reads on from where the run before it stopped.
        """
        run = self._run
        mine = (run.c.project == self._registry.project) & (run.c.view == view) & (run.c.data_version == data_version)
        done, plain = mine & (run.c.state == "done"), run.select().with_only_columns
        with self._database.reading() as connection:
            noted = connection.execute(plain(run.c.seq, run.c.backfill).where(done & (run.c.backfill != ""))).all()
            # NOTE: a program of before leaves the column null in the rows that it writes, and has the bounds in the span alone.
            older = connection.execute(plain(run.c.seq, run.c.span).where(done & run.c.backfill.is_(None))).all()
        texts = {row.seq: row.backfill for row in noted}
        texts |= {row.seq: _backfill_of(_decode(row.span, _what(view, data_version, row.seq))) for row in older}
        return {_bounds(text, _what(view, data_version, seq)) for seq, text in texts.items() if text}

    def runs(self, view: str | None = None, limit: int = 50, state: State | None = None) -> list[Run]:
        """Return the runs of a view, or of all views, the newest first and at most so many; those in a state, or all."""
        if limit < 1:
            raise RequestError(f"limit={limit} is not at least 1.")
        if state is not None and state not in _COMES_FROM:
            raise RequestError(f"state={state!r} is not a state of a run. {did_you_mean(str(state), _COMES_FROM)}")
        run = self._run
        mine = run.c.project == self._registry.project
        if view is not None:
            mine = mine & (run.c.view == view)
        if state is not None:
            mine = mine & (run.c.state == state)
        newest = run.c.started_at.desc(), run.c.view, run.c.data_version.desc(), run.c.seq.desc()
        with self._database.reading() as connection:
            rows = connection.execute(run.select().where(mine).order_by(*newest).limit(limit)).all()
        return [_read(row) for row in rows]

    def noticed(self, view: str, data_version: int) -> dict[str, int]:
        """Return what the last runs noticed of a view's source, the oldest first, each with the last run that did."""
        run = self._run
        mine = (run.c.project == self._registry.project) & (run.c.view == view) & (run.c.data_version == data_version)
        last = run.select().with_only_columns(run.c.seq, run.c.span).where(mine).order_by(run.c.seq.desc()).limit(_LAST).subquery()
        # A span may name very many files, so those alone are read that may have notices.
        with_notices = last.select().where(last.c.span.like('%"notices"%')).order_by(last.c.seq)
        with self._database.reading() as connection:
            rows = connection.execute(with_notices).all()
        spans = [(row.seq, _decode(row.span, _what(view, data_version, row.seq))) for row in rows]
        return {notice: seq for seq, span in spans for notice in span.get("notices", ())}

    @contextmanager
    def _writing(self) -> "Iterator[Connection]":
        with self._database.writing() as connection:
            if self._lease is not None:
                Leases(self._registry).require(connection, self._lease)
            yield connection

    def _greatest(self, view: str, data_version: int, state: State | None = None) -> Run | None:
        run = self._run
        mine = (run.c.project == self._registry.project) & (run.c.view == view) & (run.c.data_version == data_version)
        if state is not None:
            mine = mine & (run.c.state == state)
        with self._database.reading() as connection:
            row = connection.execute(run.select().where(mine).order_by(run.c.seq.desc()).limit(1)).first()
        return None if row is None else _read(row)

    def _written(self, view: str, data_version: int) -> "ColumnElement[bool]":
        run = self._run
        mine = (run.c.project == self._registry.project) & (run.c.view == view) & (run.c.data_version == data_version)
        written: ColumnElement[bool] = mine & run.c.state.in_(("committed", "done"))
        return written

    def _of(self, table: "Table", run: Run) -> "ColumnElement[bool]":
        """Return the condition that a row of a table belongs to a run."""
        mine = (table.c.project == self._registry.project) & (table.c.view == run.view)
        return mine & (table.c.data_version == run.data_version) & (table.c.seq == run.seq)

    def _fetch(self, connection: "Connection", view: str, data_version: int, seq: int, *, lock: bool = False) -> Run:
        run = self._run
        mine = (run.c.project == self._registry.project) & (run.c.view == view)
        query = run.select().where(mine & (run.c.data_version == data_version) & (run.c.seq == seq))
        # The lock, which SQLite's writing transactions need not, keeps a run from being done while a chunk is recorded.
        row = connection.execute(query.with_for_update(read=True) if lock else query).first()
        if row is None:
            raise RegistryError(
                f"{_what(view, data_version, seq)} is no longer in the registry. "
                "Was the registry restored or deleted meanwhile? Materialize again."
            )
        return _read(row)


def _columns(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields of a run as their columns hold them."""
    values = dict(fields)
    for name in {"reasons", "span"} & values.keys():
        values[name] = _encode(values[name])
    if values.get("finished_at") is not None:
        values["finished_at"] = to_micros(values["finished_at"])
    return values


def _read(row: "Row[Any]") -> Run:
    values = {name: value for name, value in row._mapping.items() if name not in ("project", "backfill")}
    what = _what(row.view, row.data_version, row.seq)
    finished = None if row.finished_at is None else from_micros(row.finished_at)
    decoded = {"span": _decode(row.span, what), "reasons": _decode(row.reasons, what)}
    return Run(**{**values, **decoded, "started_at": from_micros(row.started_at), "finished_at": finished})


def _encode(body: dict[str, Any]) -> str:
    return msgspec.json.encode(body).decode()


def _decode(text: str, what: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise RegistryError(f"{what} cannot be read from the registry: {error}. Restore the registry from a backup.") from error


def _backfill_of(span: dict[str, Any]) -> str:
    """Return the bounds of the backfill that a run is part of as the column has them; empty for a run of none."""
    bounds = span.get("backfill")
    return msgspec.json.encode(bounds).decode() if isinstance(bounds, list) else ""


def _bounds(text: str, what: str) -> tuple[int | None, int]:
    try:
        return msgspec.json.decode(text, type=tuple[int | None, int])
    except msgspec.MsgspecError as error:
        raise RegistryError(f"{what} cannot be read from the registry: {error}. Restore the registry from a backup.") from error


def _what(view: str, data_version: int, seq: int) -> str:
    return f"Run {seq} of view {view!r} (data version {data_version})"
