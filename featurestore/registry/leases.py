"""Leases: one process at a time works on a task, and a late holder is rejected.

A lease ends by itself unless it is renewed, so what a dead process held is taken over. Its token rises with every holder and
is never given again: it tells a holder that stood still, and was replaced meanwhile, from the present one, whatever its own clock
says. A writer on behalf of a lease has it checked in the same transaction (``require``), which fences late holders off.

NOTE: the clock of the database's server decides when a lease has ended, where there is one (PostgreSQL). Of a file the holders'
clocks do: one that is ahead by more than a lease lasts takes away what others still hold; nothing is harmed by that but time, for
the one that was replaced is fenced off. An end that lies further ahead than any lease reaches was set by a clock that was wrong: it
is not believed, and the lease is free.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from featurestore.clock import from_micros, to_micros, utc_now
from featurestore.errors import LeaseLostError
from featurestore.registry.project_database import ProjectDatabase

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

_RELEASED = 0
_MICROS = 1_000_000


def longest_lease(seconds: float) -> int:
    """Return how far ahead the end of a lease may lie, in microseconds, for one who takes leases of so many seconds.

    It leaves room for holders who take longer ones, and whose clocks are ahead: what is in doubt is held.
    """
    return round((10 * seconds + 60) * _MICROS)


@dataclass(frozen=True)
class Lease:
    """The right to work on something, for a while.

    Args:
        name: what it is on.
        holder: whose it is, in words for people.
        token: its number among those on the same thing, of all times.
        expires_at: when it ends, unless it is renewed.
    """

    name: str
    holder: str
    token: int
    expires_at: datetime


class Leases:
    """The leases of one project. Thread-safe; right for any number of processes.

    Args:
        registry: the project's registry, whose database and clock they share.

    Every method raises ``RegistryError`` where the database cannot be reached.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from featurestore.clock import utc_now
        >>> registry = ProjectDatabase("sqlite:///registry.db", "flights", Path(tempfile.mkdtemp()), utc_now)
        >>> leases = Leases(registry)
        >>> mine = leases.acquire("weather", "one", 30)
        >>> leases.acquire("weather", "another", 30) is None
        True
        >>> leases.release(mine)
        >>> leases.acquire("weather", "another", 30).token
        2
        >>> registry.close()
    """

    def __init__(self, registry: ProjectDatabase) -> None:
        self._registry = registry
        self._database = registry.database
        self._lease = registry.database.tables.lease

    def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        """Take the lease on a thing; return None while it is held, be it by the same holder."""
        lease, key = self._lease, {"project": self._registry.project, "name": name}
        with self._database.writing() as connection:
            now, ends = self._until(seconds, connection)
            ended = (lease.c.expires_at <= now) | (lease.c.expires_at > now + longest_lease(seconds))
            over = (lease.c.project == self._registry.project) & (lease.c.name == name) & ended
            taken = {"holder": holder, "token": lease.c.token + 1, "expires_at": ends}
            # One conditional change of the row that is there; of two at once the second finds it changed.
            row = connection.execute(lease.update().where(over).values(taken).returning(lease.c.token)).first()
            if row is not None:
                return Lease(name, holder, row.token, from_micros(ends))
            fresh = {**key, "holder": holder, "token": 1, "expires_at": ends}
            new = self._database.insert_new(connection, lease, fresh)
        return Lease(name, holder, 1, from_micros(ends)) if new else None

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Prolong a lease to so many seconds from now; one that has ended too, where nobody took it over.

        Raises:
            LeaseLostError: somebody took it over, or it was released.
        """
        with self._database.writing() as connection:
            _, ends = self._until(seconds, connection)
            renewed = connection.execute(self._lease.update().where(self._mine(lease)).values(expires_at=ends)).rowcount
        if not renewed:
            raise LeaseLostError(lease.name, lease.holder)
        return replace(lease, expires_at=from_micros(ends))

    def release(self, lease: Lease) -> None:
        """Give a lease back. One that is lost is left as it is."""
        with self._database.writing() as connection:
            self.release_in(connection, lease)

    def holders(self) -> list[Lease]:
        """Return the leases that are held now, by name."""
        lease = self._lease
        with self._database.reading() as connection:
            now, _ = self._until(0.0, connection)
            is_held = (lease.c.project == self._registry.project) & (lease.c.expires_at > now)
            rows = connection.execute(lease.select().where(is_held).order_by(lease.c.name)).all()
        return [Lease(row.name, row.holder, row.token, from_micros(row.expires_at)) for row in rows]

    def require(self, connection: "Connection", lease: Lease) -> None:
        """Make sure that a lease is still its holder's until a transaction ends: nobody takes it over meanwhile.

        A lease that has ended counts as long as nobody took it over.

        Raises:
            LeaseLostError: somebody took it over, or it was released.
        """
        # The lock keeps a taker waiting; SQLite's writing transactions exclude one another without it.
        query = self._lease.select().where(self._mine(lease)).with_for_update(read=True)
        if connection.execute(query).first() is None:
            raise LeaseLostError(lease.name, lease.holder)

    def release_in(self, connection: "Connection", lease: Lease) -> None:
        """Give a lease back with what else a transaction does."""
        # The row stays, for its token must go on rising.
        connection.execute(self._lease.update().where(self._mine(lease)).values(expires_at=_RELEASED))

    def _mine(self, lease: Lease) -> "ColumnElement[bool]":
        row: Table = self._lease
        mine = (row.c.project == self._registry.project) & (row.c.name == lease.name)
        return mine & (row.c.token == lease.token) & (row.c.expires_at > _RELEASED)

    def _until(self, seconds: float, connection: "Connection") -> tuple[int, int]:
        """Return the present and the instant so many seconds later, by the clock that all holders share, where there is one."""
        now = self._registry.clock()
        if self._registry.clock is utc_now and connection.dialect.name == "postgresql":
            now = self._database.server_clock(connection)
        micros = to_micros(now)
        return micros, micros + round(seconds * _MICROS)
