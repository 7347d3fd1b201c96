"""Sources: where rows come from, and which of their columns hold times."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar, Literal

import polars as pl

from featurestore.clock import format_duration, parse_duration
from featurestore.definitions.definition_errors import caller_place, report
from featurestore.definitions.entity import check_name
from featurestore.dtypes import as_dtype, dtype_from_name, dtype_name
from featurestore.errors import ConfigError, DefinitionError
from featurestore.object_storage import check_glob, is_object_address
from featurestore.zones import frame_of

OnBadFile = Literal["fail", "set_aside"]

_DEFAULT_LATENESS = 3_600_000_000
"""How far a run over a source whose cursor is a time reads again behind it, in microseconds."""


@dataclass(frozen=True)
class Source:
    """What all sources share: a name, and which columns tell time.

    Args:
        name: the source's name; a transform's first parameter usually bears it.
        event_time: the column that tells when a row became true (S2).
        available_time: the column that tells when this system could first have known the row; without one, a row is
            known when it is true (S2).
        event_id: the column that tells events apart. It must be there; the latest value of a feature does not depend on it.
        order_by: the column that tells which of two rows with the same join keys and times is the later one: a sequence number,
            or a time. The greater counts; null is less than anything. Without one the order of the rows' values decides (S4).
        rename: columns to rename as they are read, ``{"name in the source": "name here"}``. Every other argument, and
            the transform, uses the names here.
        lateness: of a SQL source: how far behind what it has read a run reads again (S18), an hour by default. A row may become
            visible so much later than its available time, or without one than its event time, and is found. Of files in object
            storage: how much later than the time that it bears an object may appear and is found, where that is more than a day.
        description: what it is.
        owner: who answers for it.

    A package adds a kind of source with a subclass, a frozen dataclass that is an entry point of ``featurestore.sources`` under the
    name of its kind. The kind is the class's name without ``Source``, in lower case, unless the class says
    ``class Lines(Source, kind="jsonl")``.

    Attributes:
        kind: the kind of source, as the registry and the entry points name it: ``"parquet"``.
    """

    kind: ClassVar[str] = "source"

    name: str
    _: KW_ONLY
    event_time: str
    available_time: str | None = None
    event_id: str | None = None
    order_by: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    lateness: str | timedelta | None = None
    description: str = ""
    owner: str = ""
    place: str = field(default="", compare=False, repr=False)

    def __init_subclass__(cls, kind: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.kind = kind or cls.__name__.removesuffix("Source").lower()

    def __post_init__(self) -> None:
        place = self.place or caller_place()
        object.__setattr__(self, "place", place)
        faults = check_name("source", self.name, place)
        if self.available_time is not None and self.available_time == self.event_time:
            faults.append(
                DefinitionError(
                    f"source {self.name!r} names {self.event_time!r} as both event time and available time; leave available_time "
                    "out if rows are known as soon as they are true.",
                    place,
                )
            )
        try:
            if self.lateness is not None:
                object.__setattr__(self, "lateness", format_duration(parse_duration(self.lateness)))
        except DefinitionError as error:
            faults.append(DefinitionError(f"lateness of source {self.name!r}: {error.problem}", place))
        report(faults)

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def encode(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields as JSON can say them. A subclass whose fields are not JSON values extends this and ``decode``.

        Args:
            values: the fields that differ from their defaults, by name.
        """
        plain = dict(values)
        if "columns" in plain:
            plain["columns"] = {name: dtype_name(dtype) for name, dtype in plain["columns"].items()}
        if "rename" in plain:
            plain["rename"] = dict(plain["rename"])
        return plain

    @classmethod
    def decode(cls, plain: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the class from what ``encode`` returned."""
        values = dict(plain)
        if "columns" in values:
            values["columns"] = {name: dtype_from_name(dtype) for name, dtype in values["columns"].items()}
        return values

    def without_words(self) -> "Source":
        """Return the source without what its rows do not depend on."""
        changes = {"on_bad_file": "fail"} if hasattr(self, "on_bad_file") else {}
        return replace(self, description="", owner="", **changes)  # type: ignore[arg-type]  # a subclass has that field

    @property
    def lateness_micros(self) -> int:
        """The lateness in microseconds; 0 where none is declared."""
        return 0 if self.lateness is None else parse_duration(self.lateness)

    @property
    def time_columns(self) -> tuple[str, ...]:
        """The columns that tell time: the event time, and the available time where there is one."""
        return (self.event_time,) if self.available_time is None else (self.event_time, self.available_time)


@dataclass(frozen=True)
class ParquetSource(Source):
    """Rows in Parquet files. New and changed files are what is new; inside them, the available time where there is one.

    Args:
        path: a file, a glob (``"data/*.parquet"``, ``"data/**/*.parquet"``) or a folder, whose hive partitions
            (``day=2013-01-01/``) become columns. A relative path starts at the project's folder. In object storage it is an
            address: ``"s3://lake/flights/**/*.parquet"``, and likewise ``gs://`` and ``az://``.
        columns: the types of partition columns, by their names there. One that is a view's join key or, without a transform,
            its feature, has the type declared there; of others it is guessed from all texts.
        on_bad_file: what becomes of a file that cannot be read: ``"fail"`` stops the run; ``"set_aside"`` goes on without it,
            reports it, and reads it once it is whole. New files are then read twice, the first time to try them.

    Example:
        >>> ParquetSource("observations", "data/weather/*.parquet", event_time="observed_at").kind
        'parquet'
    """

    path: str
    _: KW_ONLY
    columns: Mapping[str, Any] = field(default_factory=dict)
    on_bad_file: OnBadFile = "fail"
    _declared: Mapping[str, pl.DataType] = field(default_factory=dict, compare=False, repr=False)

    __hash__ = Source.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "columns", _types(self, self.columns))
        _check_path(self, self.path)
        _check_on_bad_file(self, self.on_bad_file)


@dataclass(frozen=True)
class CSVSource(Source):
    """Rows in CSV files with a header line. New and changed files are what is new.

    Args:
        path: a file, a glob or a folder, or an address in object storage. A relative path starts at the project's folder.
        columns: the type of each column that shall not be guessed from the first rows, by its name in the file. A join key and,
            without a transform, a feature have the type that the view declares.
        separator: what stands between two fields.
        null_values: the texts that mean null, beside the empty field, quoted ones too: one, or several.
        on_bad_file: as for a ``ParquetSource``.

    Example:
        >>> readings = CSVSource("readings", "data/*.csv", event_time="at", columns={"sensor": str}, null_values=["NA"])
        >>> readings.columns
        {'sensor': String}
    """

    path: str
    _: KW_ONLY
    columns: Mapping[str, Any] = field(default_factory=dict)
    separator: str = ","
    null_values: str | Sequence[str] = ()
    on_bad_file: OnBadFile = "fail"
    _declared: Mapping[str, pl.DataType] = field(default_factory=dict, compare=False, repr=False)

    __hash__ = Source.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "columns", _types(self, self.columns))
        texts = (self.null_values,) if isinstance(self.null_values, str) else tuple(self.null_values)
        object.__setattr__(self, "null_values", texts)
        wrong = [text for text in texts if not isinstance(text, str)]
        problem = f"null_values= of source {self.name!r} holds {wrong}; write texts, as in null_values=['NA']."
        report([DefinitionError(problem, self.place)] if wrong else [])
        _check_path(self, self.path)
        _check_on_bad_file(self, self.on_bad_file)

    @classmethod
    def decode(cls, plain: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Source.decode``."""
        values = super().decode(plain)
        return values | ({"null_values": tuple(values["null_values"])} if "null_values" in values else {})


def _types(source: Source, columns: Mapping[str, Any]) -> dict[str, pl.DataType]:
    faults: list[DefinitionError] = []
    types: dict[str, pl.DataType] = {}
    for column, given in columns.items():
        try:
            types[column] = as_dtype(given)
        except DefinitionError as error:
            faults.append(DefinitionError(f"column {column!r} of source {source.name!r}: {error.problem}", source.place))
    report(faults)
    return types


def _check_path(source: Source, path: str) -> None:
    """Refuse an address with a secret in it, which the registry would keep and messages show."""
    try:
        if is_object_address(path):
            check_glob(path, f"path= of source {source.name!r}")
    except ConfigError as error:
        report([DefinitionError(str(error), source.place)])


def _check_on_bad_file(source: Source, given: str) -> None:
    if given not in ("fail", "set_aside"):
        problem = f'on_bad_file= of source {source.name!r} is {given!r}, which is neither "fail" nor "set_aside".'
        report([DefinitionError(problem, source.place)])


@dataclass(frozen=True)
class DeltaSource(Source):
    """Rows in a Delta table. The files that its versions since the last run added are what is new.

    Args:
        path: the table's folder, or its address in object storage. A relative path starts at the project's folder.

    Example:
        >>> DeltaSource("trips", "lake/trips", event_time="ended_at", rename={"dropoff": "ended_at"}).time_columns
        ('ended_at',)
    """

    path: str

    __hash__ = Source.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_path(self, self.path)


@dataclass(frozen=True)
class SQLSource(Source):
    """The rows of a query. New are those whose available (or else event) time is later than what was read, less ``lateness``.

    Args:
        query: a SELECT, without a semicolon. DuckDB runs it over files (``select * from 'data/*.parquet'``, paths
            starting at the project's folder) or over ``database``.
        database: a DuckDB file, or a ``postgresql://`` address, whose server then runs the query.

    Example:
        >>> orders = SQLSource("orders", "select * from 'data/orders/*.parquet'", event_time="ordered_at", lateness="90m")
        >>> orders.lateness
        '1h30m'
    """

    query: str
    _: KW_ONLY
    database: str | None = None

    __hash__ = Source.__hash__

    @property
    def lateness_micros(self) -> int:
        """The lateness in microseconds; an hour where none is declared."""
        return _DEFAULT_LATENESS if self.lateness is None else super().lateness_micros


@dataclass(frozen=True, eq=False)
class FrameSource(Source):
    """Rows in memory, for notebooks and tests. Every run reads all of them; those known already are not written again.

    Args:
        frame: the rows: a Polars frame, or any object that speaks Arrow (pandas, PyArrow).

    Example:
        >>> from datetime import datetime
        >>> rows = pl.DataFrame({"origin": ["JFK"], "observed_at": [datetime(2013, 7, 1)], "temp": [79.0]})
        >>> FrameSource("observations", rows, event_time="observed_at").frame.height
        1
    """

    frame: Any

    __hash__ = Source.__hash__

    def __post_init__(self) -> None:
        if not isinstance(self.frame, pl.DataFrame):
            frame = self.frame.collect() if isinstance(self.frame, pl.LazyFrame) else frame_of(self.frame)
            object.__setattr__(self, "frame", frame)
        super().__post_init__()

    @classmethod
    def decode(cls, plain: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Source.decode``. The rows stay in the process that defined them; in another there are none."""
        return super().decode(plain) | {"frame": pl.DataFrame()}
