"""Schedule state: the last due time that was taken for each scheduled view, and its result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from featurestore.registry.leases import Lease, Leases
from featurestore.registry.project_database import ProjectDatabase

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table

State = Literal["running", "done", "failed", "waiting", "retrying"]


@dataclass(frozen=True)
class ScheduleState:
    """A view's due instant that was last taken up. Instants are microseconds since the epoch.

    Args:
        view: the view; ``upkeep:view`` for its upkeep.
        due_at: the instant at which it was due.
        state: ``running`` from when it is taken up; then ``done``; ``waiting`` for what it reads; ``retrying`` after a failed
            attempt; ``failed`` after the last one.
        attempts: how many attempts have failed.
        deaths: how many processes died while they were at it, since it was last done or failed.
        next_at: when a waiting or retrying one is tried again.
        finished_at: when it was last done or failed.
        settled_at: the greatest due instant that is over, be it done or failed; what reads this view waits for it.
        error: why it failed, or what it waits for.
        holder: who has the view's lease, or had it last.
        held_until: when that lease ends.
    """

    view: str
    due_at: int
    state: State
    attempts: int = 0
    deaths: int = 0
    next_at: int | None = None
    finished_at: int | None = None
    settled_at: int | None = None
    error: str = ""
    holder: str | None = field(default=None, compare=False)
    held_until: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ScheduleSnapshot:
    """What a scheduler finds at a tick.

    Args:
        state: the project's revision and its stamp, which tell whether somebody applied.
        dues: what is due or was, by view.
    """

    state: tuple[int, str] = (0, "")
    dues: Mapping[str, ScheduleState] = field(default_factory=dict)


class ScheduleStates:
    """The due table of one project. Thread-safe; right for any number of processes.

    Args:
        registry: the project's registry, whose database it shares.

    Every method raises ``RegistryError`` where the database cannot be reached.
    """

    def __init__(self, registry: ProjectDatabase) -> None:
        self._registry = registry
        self._database = registry.database
        self._leases = Leases(registry)
        self._due = registry.database.tables.due

    def load(self) -> ScheduleSnapshot:
        """Return all of it, in one query."""
        query = self._database.tables.standing_dues(self._registry.project)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return ScheduleSnapshot()
        state = rows[0].revision, rows[0].stamp or ""
        return ScheduleSnapshot(state, {row.view: ScheduleState(*row[2:]) for row in rows if row.view is not None})

    def move(self, lease: Lease, seen: ScheduleState | None, due: ScheduleState, *, release: bool = False) -> bool:
        """Put a view's row from what it was to what it is to be, all at once, on behalf of the lease on it.

        Args:
            lease: the lease on the view.
            seen: the row as it was last seen; None where there was none.
            due: what it is to be.
            release: whether to give the lease back with it.

        Returns:
            Whether the row was as it was last seen; if not, nothing is changed.

        Raises:
            LeaseLostError: the lease is not its holder's any more; nothing is changed.
        """
        table = self._due
        values = {name: value for name, value in asdict(due).items() if name in table.c}
        with self._database.writing() as connection:
            self._leases.require(connection, lease)
            if seen is None:
                moved = self._database.insert_new(connection, table, {"project": self._registry.project, **values})
            else:
                moved = connection.execute(table.update().where(self._as_seen(seen)).values(values)).rowcount == 1
            if moved and release:
                self._leases.release_in(connection, lease)
        return moved

    def _as_seen(self, seen: ScheduleState) -> "ColumnElement[bool]":
        row: Table = self._due
        mine = (row.c.project == self._registry.project) & (row.c.view == seen.view) & (row.c.due_at == seen.due_at)
        mine = mine & (row.c.state == seen.state) & (row.c.attempts == seen.attempts) & (row.c.deaths == seen.deaths)
        return mine & row.c.next_at.is_not_distinct_from(seen.next_at)
