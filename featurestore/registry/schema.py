"""The registry's tables, and the engine of their database.

With ``database.py`` the only module that imports SQLAlchemy, which takes a fifth of a second: ``specs.py`` and
``ledger.py`` get both through the ``Database`` they open.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from featurestore.errors import ConfigError, MissingExtraError

METADATA = MetaData()

project = Table(
    "featurestore_project",
    METADATA,
    Column("project", String, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("stamp", String),
)
"""A row for each project: its revision, which rises by one with every apply that changes something, and a random stamp of it.

The stamp distinguishes a restored or recreated registry from the one that readers have seen: numbers alone may be the same.
"""

schema = Table(
    "featurestore_schema",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("migrated_at", BigInteger),
)
"""The version of these tables, and when they got it: one row. A registry without the table is of version 1."""

spec = Table(
    "featurestore_spec",
    METADATA,
    Column("project", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("data_version", Integer),
    Column("applied_at", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
"""A row for each version of each definition, never changed once written. A removal is a version too, without a body."""

run = Table(
    "featurestore_run",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("data_version", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("state", String, nullable=False),
    Column("span", Text, nullable=False),
    Column("rows_read", BigInteger, nullable=False),
    Column("rows_written", BigInteger, nullable=False),
    Column("rows_rejected", BigInteger, nullable=False),
    Column("rows_online", BigInteger, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("backfill", Text),
)
"""A row for each materialization run. Instants, here and above, are microseconds since the epoch.

``backfill`` has the bounds of the backfill that the run is part of, as JSON, and is empty for other runs. It is null where a
program wrote the row that knows schema version 2 at most: then the bounds are looked for in the span, which has them too.
"""

Index("featurestore_run_started", run.c.project, run.c.started_at)

chunk = Table(
    "featurestore_chunk",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("data_version", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
"""What a run that is not done yet has staged of each chunk."""

key = Table(
    "featurestore_key",
    METADATA,
    Column("project", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", String, nullable=False),
    Column("grants", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_four", String, nullable=False),
)
"""A row for each API key of a server, never deleted: the SHA-256 of its secret, and what it may do."""

serving = Table(
    "featurestore_serving",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("data_version", Integer, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
"""A row for each time that a view's readers were given another version, or it was pinned; the greatest ``seq`` counts."""

cleaned = Table(
    "featurestore_cleaned",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("data_version", Integer, primary_key=True, autoincrement=False),
    Column("cleaned_at", BigInteger, nullable=False),
)
"""A row for each data version of a view whose rows were given up, so that nobody returns to it."""

lease = Table(
    "featurestore_lease",
    METADATA,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
"""A row for each thing that one process at a time works on: who, until when, and a token that rises with every holder."""

due = Table(
    "featurestore_due",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("due_at", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("next_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("settled_at", BigInteger),
    Column("error", Text, nullable=False),
)
"""A row for each scheduled view: the due instant that was last taken up, and what came of it."""

notice = Table(
    "featurestore_notice",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("state", String, nullable=False),
)
"""A row for each view that ``status --check`` has reported as late or failed, and not as recovered."""

tombstone = Table(
    "featurestore_tombstone",
    METADATA,
    Column("project", String, primary_key=True),
    Column("entity", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("forgotten_at", BigInteger, nullable=False),
    Column("erased_at", BigInteger),
    Column("lifted", Boolean, nullable=False),
    Column("change", BigInteger, nullable=False),
)
"""A row for each entity that was forgotten: a keyed hash of its keys, which shall not come back unless it is lifted.

Every change of a project's tombstones raises the greatest ``change`` by one, which tells cheaply whether they are known.
"""

Index("featurestore_tombstone_change", tombstone.c.project, tombstone.c.change)

secret = Table(
    "featurestore_secret",
    METADATA,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)
"""A project's secrets, made at random when they are first needed: the key of its tombstones' hashes."""

online = Table(
    "featurestore_online",
    METADATA,
    Column("project", String, primary_key=True),
    Column("id", String, nullable=False),
    Column("epoch", String, nullable=False),
)
"""A row for each project: the id that its keys online have of this registry, and what the online store's marks hold."""

doubt = Table(
    "featurestore_doubt",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("data_version", Integer, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("lost", Boolean, nullable=False),
    Column("since", BigInteger, nullable=False),
)
"""A row for each view and data version whose online values are to be written again from the history."""

audit = Table(
    "featurestore_audit",
    METADATA,
    Column("project", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", String, nullable=False), Column("what", Text, nullable=False),
)  # fmt: skip
"""A row for each change of what a project keeps, grants or forgets; never changed, and kept when the project is taken down."""

Index("featurestore_audit_at", audit.c.project, audit.c.at)
BUSY_SECONDS = 30
"""How long a SQLite registry waits for another process to finish writing."""

SCHEMA_VERSION = 3
"""The version of these tables. It rises with every change of a table that was there; ``migrations.py`` has what leads to it."""

_CONNECT_SECONDS = 10
_IDLE_SECONDS = 10
_LOCK_SECONDS = 15
_STATEMENT_SECONDS = 18
SILENT_SECONDS = 20
"""How long a PostgreSQL registry may be silent before a connection is given up; of the others each is less than the next."""
_HASTY = frozenset({f"DEFAULT_{mode}SYNCHRONOUS={level}" for mode in ("", "WAL_") for level in (0, 1)})
"""How a SQLite may have been built that, with a write-ahead log, loses the last transactions at a power cut."""


@lru_cache  # building it takes longer than most databases take to answer
def newest_specs(project_name: str) -> Select[Any]:
    """Return the query of a project's revision, the newest version of each of its definitions, and what readers are given.

    One statement, so that it is one snapshot on every database. A project without definitions is one row of nulls. The
    columns ``served_…`` and ``pinned`` are null for a view whose readers never were given another version.
    """
    place = func.row_number().over(partition_by=(spec.c.kind, spec.c.name), order_by=spec.c.version.desc())
    ranked = select(spec, place.label("place")).where(spec.c.project == project_name).subquery()
    rank = func.row_number().over(partition_by=serving.c.view, order_by=serving.c.seq.desc())
    ranked_serving = select(serving, rank.label("turn")).where(serving.c.project == project_name).subquery()
    given = spec.alias()
    newest = ranked.c.kind, ranked.c.name, ranked.c.version, ranked.c.body, ranked.c.data_version, ranked.c.deleted
    served = (
        ranked_serving.c.version.label("served_version"),
        ranked_serving.c.data_version.label("served_data_version"),
        ranked_serving.c.pinned,
        given.c.body.label("served_body"),
    )
    is_view = ranked.c.kind == "view"
    return (
        select(project.c.revision, project.c.stamp, *newest, *served)
        .select_from(
            project.outerjoin(ranked, (ranked.c.project == project.c.project) & (ranked.c.place == 1))
            .outerjoin(ranked_serving, is_view & (ranked_serving.c.view == ranked.c.name) & (ranked_serving.c.turn == 1))
            .outerjoin(
                given,
                (given.c.project == ranked_serving.c.project)
                & (given.c.kind == "view")
                & (given.c.name == ranked_serving.c.view)
                & (given.c.version == ranked_serving.c.version),
            )
        )
        .where(project.c.project == project_name)
        .order_by(ranked.c.kind, ranked.c.name)
    )


@lru_cache
def standing_dues(project_name: str) -> Select[Any]:
    """Return the query of a project's revision and its due rows, each with who holds the lease of the same name.

    One statement, for it is asked every second. A project without due rows is one row of nulls.
    """
    rows = project.outerjoin(due, due.c.project == project.c.project)
    rows = rows.outerjoin(lease, (lease.c.project == due.c.project) & (lease.c.name == due.c.view))
    columns = [column for column in due.c if column.name != "project"]
    holder = lease.c.holder, lease.c.expires_at.label("held_until")
    return select(project.c.revision, project.c.stamp, *columns, *holder).select_from(rows).where(project.c.project == project_name)


def open_engine(url: str, root: Path, **options: Any) -> Engine:
    """Return the engine of a registry's address. It does not connect, and makes no file yet.

    Args:
        url: ``sqlite:///path``, whose relative path starts at ``root``, or ``postgresql+psycopg://…``.
        root: the project's folder.
        options: more arguments of SQLAlchemy's ``create_engine``.

    Raises:
        ConfigError: the address is of another form.
        MissingExtraError: the database's driver is not installed.
    """
    address = _parse(url)
    if address.get_backend_name() == "sqlite":
        path = root / (address.database or "")
        engine = create_engine(
            address.set(drivername="sqlite+pysqlite", database=str(path)),
            # NOTE: with an isolation level the driver begins transactions by itself, late, and never IMMEDIATE.
            connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
            **options,
        )
        event.listen(engine, "begin", _begin)
        event.listen(engine, "connect", _be_lasting)
        return engine
    try:
        engine = create_engine(
            address.set(drivername="postgresql+psycopg"),
            connect_args={name: value for name, value in _PATIENCE.items() if name not in address.query},
            **{"pool_pre_ping": True, "pool_timeout": _CONNECT_SECONDS, **options},
        )
    except ImportError as error:
        raise MissingExtraError(f"a registry at {address.render_as_string()}", "postgres") from error
    event.listen(engine, "do_connect", _connecting())
    event.listen(engine, "connect", _be_patient)
    return engine


def _parse(url: str) -> URL:
    forms = "Write sqlite:///.featurestore/registry.db, or postgresql+psycopg://user:password@host/database."
    try:
        address = make_url(url)
        backend = address.get_backend_name()
        known = address.drivername in ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError(f"The setting 'registry' is not an address of a database. {forms}") from error
    if not known:
        raise ConfigError(f"The setting 'registry' names a database of the kind {address.drivername!r}. {forms}")
    if backend == "sqlite" and address.database in (None, "", ":memory:"):
        raise ConfigError(f"The setting 'registry' names a SQLite database in memory, which no other process could read. {forms}")
    return address


_PATIENCE: dict[str, int] = {
    "connect_timeout": _CONNECT_SECONDS,
    # Whether the other side is there is asked after 5 s of silence, and what was sent must have arrived after 20 s.
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": SILENT_SECONDS * 1000,
}
"""Options of a connection that libpq gets, unless the registry's address sets them."""


def _connecting() -> Callable[..., Any]:
    """Return what connects to PostgreSQL in a way that waits for no answer longer than ``SILENT_SECONDS``.

    Keepalives tell that the other side's machine is gone. Behind a proxy, or where a server has stopped, the connection is well
    and the answer never comes.
    """
    from featurestore.registry.timeouts import Connector  # it loads psycopg, which is an extra

    connector = Connector()
    return lambda dialect, record, arguments, options: connector.connect(SILENT_SECONDS, arguments, options)


def _be_patient(connection: Any, _: Any) -> None:
    """Have a PostgreSQL server end what keeps others waiting: a process may stand still in the midst of a transaction."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
        cursor.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
        cursor.execute(f"SET statement_timeout = '{_STATEMENT_SECONDS}s'")
    connection.commit()


def _be_lasting(connection: Any, _: Any) -> None:
    """Have a SQLite database on the disk when a transaction has ended: what a run or push says is written follows from it."""
    options = {option for (option,) in connection.execute("PRAGMA compile_options")}
    if options & _HASTY:
        # NOTE: only where it is not so anyway: it has to read the file, and would wait where somebody is making it.
        connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")  # macOS keeps them in the drive's cache else
    connection.execute("PRAGMA checkpoint_fullfsync=ON")


def _begin(connection: Connection) -> None:
    """Begin a SQLite transaction as the connection's ``begin`` option says; None is for what must be outside of one."""
    begin = connection.get_execution_options().get("begin", "BEGIN")
    if begin is not None:
        connection.exec_driver_sql(begin)
