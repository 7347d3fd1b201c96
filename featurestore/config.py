"""Settings: what there is to set, with defaults and limits."""

import math
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from featurestore.clock import check_schedule, check_zone, format_duration, parse_length
from featurestore.errors import ConfigError, DefinitionError
from featurestore.object_storage import check_options
from featurestore.setting_errors import MissingUnitError, explain, fields_of, is_table

_NOTHING = timedelta()


def _to_duration(value: Any) -> timedelta:
    """Return what a setting says as a duration: a string with a unit, or a ``timedelta``; a bare number has no unit."""
    if not isinstance(value, (str, timedelta)) or _is_number(value):
        raise MissingUnitError(f"{value!r} must be a duration such as '{_as_seconds(value)}' (units: us ms s m h d w)")
    try:
        return timedelta(microseconds=parse_length(value))
    except DefinitionError as error:
        raise ValueError(str(error).removesuffix(".")) from error


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value)) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        return False


def _as_seconds(value: Any) -> str:
    """Return how to write a bare number of seconds; for anything else, an example."""
    return format_duration(round(float(value) * 1e6)) if _is_number(value) and 0 <= float(value) < 1e9 else "30s"


def _to_duration_or_forever(value: Any) -> Any:
    if value == "forever":
        return value
    length = _to_duration(value)
    if length <= _NOTHING:
        raise ValueError("it must be longer than nothing; write 'forever' to remove nothing")
    return length


Duration = Annotated[timedelta, BeforeValidator(_to_duration)]
"""A setting's length of time: a duration string (``"500ms"``, ``"30s"``, ``"7d"``) or a ``timedelta``, and ``"0s"`` for none."""


class _Table(BaseModel):
    """A table of settings: ``[server]`` in the file, ``FEATURESTORE_SERVER__…`` in the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Table):
    """What ``featurestore serve`` listens on, and the limits of requests.

    Example:
        >>> Settings().replace(server={"request_timeout": "5s"}).server.request_timeout
        datetime.timedelta(seconds=5)
    """

    host: str = Field(default="127.0.0.1", description="The address that serve listens on.")
    port: int = Field(default=8372, ge=0, le=65535, description="The port that serve listens on; 0 takes a free one.")
    workers: int = Field(default=1, gt=0, description="How many processes serve.")
    max_body_mib: float = Field(default=32.0, gt=0, description="The MiB that the body of a look-up or push may have.")
    max_spine_mib: float = Field(default=1100.0, gt=0, description="The MiB that a spine sent to the server may have.")
    spine_memory_mib: float = Field(default=64.0, gt=0, description="The MiB of a spine that the server works on in memory.")
    max_rows: int = Field(default=10_000, gt=0, description="The rows that a look-up or a push may have.")
    max_values: int = Field(default=1_000_000, gt=0, description="The values that a body of JSON or MessagePack may have.")
    max_columns: int = Field(default=500, gt=0, description="The columns that a body may have, and the features of a look-up.")
    max_decoded_mib: float = Field(default=256.0, gt=0, description="The MiB that a body may have once it is decoded.")
    max_spine_rows: int = Field(default=10_000_000, gt=0, description="The rows that a spine sent to the server may have.")
    max_spine_decoded_mib: float = Field(default=1024.0, gt=0, description="The MiB that a spine may have once it is decoded.")
    decoders: int = Field(default=2, gt=0, description="How many processes decode Arrow and Parquet for the server.")
    decoder_memory_mib: float = Field(default=512.0, gt=0, description="The MiB that decoding one body may take.")
    decoder_timeout: Duration = Field(
        default=timedelta(seconds=30), gt=_NOTHING, description="How long decoding one body may take."
    )
    max_bodies_mib: float = Field(default=256.0, gt=0, description="The MiB of all bodies that a process works on at once.")
    max_concurrent_pushes: int = Field(default=4, gt=0, description="How many pushes a process of the server works on at once.")
    max_waiting_pushes: int = Field(default=16, ge=0, description="How many pushes may wait; more are refused with 503.")
    worker_timeout: Duration = Field(
        default=timedelta(minutes=2),
        gt=_NOTHING,
        description="How long a worker process may not answer, as it starts too, before it is replaced.",
    )
    request_timeout: Duration = Field(
        default=timedelta(seconds=30), gt=_NOTHING, description="How long a request may take, training frames excepted."
    )
    max_concurrent_training: int = Field(
        default=2, gt=0, description="How many training frames a process of the server makes at once."
    )
    training_timeout: Duration = Field(
        default=timedelta(hours=1), gt=_NOTHING, description="How long a training frame may take on the server."
    )
    max_connections: int = Field(default=1000, gt=0, description="The connections that a process of the server has at once.")
    max_connections_per_address: int = Field(default=0, ge=0, description="Those of one address; 0 for all of them.")
    max_head_kib: float = Field(default=32.0, gt=0, description="The KiB that the head of a request may have.")
    max_headers: int = Field(default=100, gt=0, description="The headers that a request may have.")
    head_timeout: Duration = Field(
        default=timedelta(seconds=10), gt=_NOTHING, description="How long the head of a request may take to come."
    )
    keep_alive: Duration = Field(
        default=timedelta(seconds=30), gt=_NOTHING, description="How long a connection may wait for its next request."
    )
    shutdown_timeout: Duration = Field(
        default=timedelta(seconds=30), gt=_NOTHING, description="How long requests may take to end with the server."
    )
    access_log: bool = Field(default=False, description="Whether a line for each request is written to standard error.")
    tls_cert: str = Field(default="", description="The certificate of the server, a PEM file; empty for plain HTTP.")
    tls_key: str = Field(default="", description="The key of the certificate, a PEM file.")
    origins: tuple[str, ...] = Field(default=(), description="The origins whose pages may ask the server in a browser (CORS).")


class OidcSettings(_Table):
    """Whose OpenID Connect tokens the server believes, and what they grant."""

    issuer: str = Field(default="", description="The OpenID Connect issuer whose tokens count; empty for none.")
    audience: str = Field(default="", description="Whom the tokens are meant for: this server, as the issuer calls it.")
    jwks: str = Field(default="", description="Where the issuer's keys are; empty to ask the issuer.")
    algorithms: tuple[str, ...] = Field(default=("RS256", "ES256"), description="The signatures that count.")
    leeway: Duration = Field(
        default=timedelta(seconds=30), ge=_NOTHING, le=timedelta(minutes=5), description="How much the issuer's clock may differ."
    )
    claim: str = Field(default="roles", description="The claim whose names are granted something, dots leading inwards.")
    grants: dict[str, str] = Field(default={}, description="What each of these names is granted.")


class ScheduleSettings(_Table):
    """How ``featurestore schedule`` runs what is due, and retries it."""

    interval: Duration = Field(default=timedelta(seconds=1), gt=_NOTHING, description="How often the scheduler looks what is due.")
    parallel: int = Field(default=2, gt=0, description="How many views a scheduler runs at once.")
    timezone: str = Field(default="UTC", description="The time zone of cron lines that name none.")
    max_attempts: int = Field(default=5, gt=0, description="How often a due run is tried before it counts as failed.")
    retry_delay: Duration = Field(
        default=timedelta(seconds=10), gt=_NOTHING, description="The pause after a first failed attempt; it doubles."
    )
    retry_max_delay: Duration = Field(
        default=timedelta(minutes=10), gt=_NOTHING, description="The longest pause between two attempts."
    )
    source_poll: Duration = Field(
        default=timedelta(seconds=10), gt=_NOTHING, description="How often a source that is not there is looked for."
    )
    lease: Duration = Field(
        default=timedelta(seconds=30), gt=_NOTHING, description="After how long others take over the runs of a scheduler that died."
    )
    shutdown_timeout: Duration = Field(
        default=timedelta(seconds=30), ge=_NOTHING, description="How long runs may take to end with the scheduler."
    )

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        return check_zone(value)


class RetentionSettings(_Table):
    """How long things stay that nothing needs any more.

    Example:
        >>> Settings().replace(retention={"logs": "90d"}).retention.logs
        datetime.timedelta(days=90)
    """

    files: Duration = Field(
        default=timedelta(days=7),
        ge=_NOTHING,
        le=timedelta(days=30),
        description="How long files stay that a history has replaced: so long a reader may take.",
    )
    versions: Duration = Field(
        default=timedelta(days=30),
        ge=_NOTHING,
        description="How long rows stay that are neither applied nor served: so long one can return.",
    )
    logs: Annotated[timedelta | Literal["forever"], BeforeValidator(_to_duration_or_forever)] = Field(
        default="forever", description="How long the feature log stays: a duration, or forever."
    )


class FeatureLogSettings(_Table):
    """How the server keeps samples of what it answered."""

    flush_interval: Duration = Field(
        default=timedelta(minutes=1), gt=_NOTHING, description="How often the server writes sampled answers to the feature log."
    )


class StreamSettings(_Table):
    """How ``featurestore stream`` reads entries."""

    pending_timeout: Duration = Field(
        default=timedelta(minutes=5),
        ge=_NOTHING,
        description="How long a stream's entry whose row is not known yet may wait before it is set aside.",
    )


class MaintenanceSettings(_Table):
    """When the scheduler maintains the stores."""

    schedule: str = Field(default="1h", description="When the scheduler maintains each view's stores; empty for never.")

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, value: str) -> str:
        try:
            return check_schedule(value) if value else value
        except DefinitionError as error:
            raise ValueError(str(error)) from error


class RaySettings(_Table):
    """Which Ray cluster runs tasks, and what each of them is given, where ``engine`` is ``ray``.

    Example:
        >>> Settings().replace(engine="ray", ray={"address": "local"}).ray.cpus_per_task
        1
    """

    address: str = Field(
        default="auto",
        description="auto joins the cluster of RAY_ADDRESS or of this machine, or starts one here; local; host:port; ray://host:port.",
    )
    cpus_per_task: int = Field(default=1, gt=0, description="How many CPUs of its node a task is given.")
    memory_per_task_gib: float = Field(default=4.0, gt=0, description="The memory in GiB that a task may take: work is cut to it.")
    node_memory_gib: float = Field(
        default=0.0,
        ge=0,
        description="The memory in GiB for tasks of the largest node that the cluster may start; 0 for those that there are.",
    )
    py_modules: tuple[str, ...] = Field(
        default=(), description="Folders of Python packages that workers are sent; empty where their image has all."
    )
    project_dir: str = Field(
        default="", description="The project's folder on workers, for runs; empty for the path that it has here."
    )
    ship_project: bool = Field(
        default=False, description="Whether workers are sent the project's folder, but for .featurestore, .git and .venv."
    )
    object_store_mib: float = Field(
        default=200.0, ge=80, description="The MiB of shared memory of a cluster that is started on this machine."
    )


class Settings(_Table):
    """The settings of one project, each with its default.

    Relative paths in them start at ``root``, the project's folder.

    Example:
        >>> Settings(project="flights").online
        'lmdb:.featurestore/online'
    """

    root: Path = Field(default=Path(), description="The project's folder.")
    project: str = Field(default="default", description="The name under which registry and stores keep the project.")
    definitions: str = Field(default="definitions", description="The folder of definition modules.")
    registry: str = Field(default="sqlite:///.featurestore/registry.db", description="A SQLite or postgresql+psycopg address.")
    offline: str = Field(
        default=".featurestore/offline", description="The folder of the history, or s3://, gs://, az:// or a plug-in's."
    )
    online: str = Field(
        default="lmdb:.featurestore/online",
        description="lmdb:folder, redis://, rediss://, redis+cluster://, unix:// or a plug-in's.",
    )
    storage_options: dict[str, str] = Field(
        default={},
        description="What is to be said of object storage besides: endpoint_url, region. Secrets go into AWS_… variables.",
    )
    engine: str = Field(
        default="local", description="What runs training frames and the pieces of runs: local, ray, or a plug-in's."
    )
    memory_gib: float = Field(default=2.0, gt=0, description="The memory in GiB that the local engine's tasks may hold at once.")
    threads: int = Field(default=0, ge=0, description="The local engine's parallel tasks; 0 means one a core.")
    scratch: str = Field(
        default="",
        description="A folder, or s3://, gs://, az://, for the work in hand; empty for a temporary one, or beside the history "
        "where the engine is a cluster.",
    )
    chunk_rows: int = Field(default=2_000_000, gt=0, description="The rows of a source that materialize holds at once.")
    catalog_refresh: Duration = Field(
        default=timedelta(seconds=2), gt=_NOTHING, description="How often a reader looks whether another process applied."
    )
    access: Literal["auto", "required", "open"] = Field(
        default="auto",
        description="Who is admitted: auto asks for keys but of this machine while there is none, required always, open never.",
    )
    audit: str = Field(default="", description="Where who asked for what is written: a file, or stderr; empty for nowhere.")
    tombstone_secret: str = Field(
        default="",
        repr=False,
        description="What the hashes of forgotten entities are made with; empty for a file beside the history.",
    )
    webhook: str = Field(default="", description="Where alerts about late or failed views are sent, as JSON; empty for nowhere.")
    file_mode: Literal["owner", "group"] = Field(
        default="owner", description="Who may read and write the files of the stores: their owner, or their group too."
    )
    tracing: bool = Field(default=False, description="Whether the server tells OpenTelemetry of its requests.")
    server: ServerSettings = Field(default=ServerSettings(), description="The server.")
    oidc: OidcSettings = Field(default=OidcSettings(), description="The tokens that the server believes.")
    schedule: ScheduleSettings = Field(default=ScheduleSettings(), description="The scheduler.")
    retention: RetentionSettings = Field(default=RetentionSettings(), description="How long things stay.")
    feature_log: FeatureLogSettings = Field(default=FeatureLogSettings(), description="The feature log.")
    ray: RaySettings = Field(default=RaySettings(), description="The Ray cluster, where that is the engine.")
    stream: StreamSettings = Field(default=StreamSettings(), description="The stream worker.")
    maintenance: MaintenanceSettings = Field(default=MaintenanceSettings(), description="The upkeep of the stores.")

    @property
    def registry_file(self) -> Path | None:
        """The file of a registry in SQLite; None of one on a server."""
        scheme, _, path = self.registry.partition(":///")
        return self.root / path if scheme.startswith("sqlite") else None

    def replace(self, **changes: Any) -> "Settings":
        """Return these settings with others in their place; a mapping changes the settings of a table that it names.

        Raises:
            ConfigError: a setting is unknown or of the wrong form.

        Example:
            >>> changed = Settings().replace(project="flights", server={"port": 0})
            >>> changed.project, changed.server.port, changed.server.host
            ('flights', 0, '127.0.0.1')
        """
        try:
            return Settings.model_validate(_merge(self.model_dump(), changes))
        except ValidationError as error:
            raise ConfigError(explain(error, FIELDS)) from error

    @field_validator("project")
    @classmethod
    def _plain_project(cls, value: str) -> str:
        if not value.replace("_", "").replace("-", "").isalnum():
            raise ValueError("a project's name is made of letters, digits, - and _")
        return value

    @field_validator("storage_options")
    @classmethod
    def _plain_options(cls, value: dict[str, str]) -> dict[str, str]:
        try:
            check_options(value)
        except ConfigError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        return value

    @field_validator("webhook")
    @classmethod
    def _webhook(cls, value: str) -> str:
        if value and not is_webhook(value):
            raise ValueError("it is not an http:// or https:// address")
        return value


def is_webhook(url: str) -> bool:
    """Return whether something is an address that notices can be posted to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


FIELDS = {name: field for name, field in fields_of(Settings) if name != "root"}
"""The settings and tables by their dotted names."""


def setting_names() -> list[str]:
    """Return the names of all settings, those in tables with dots (``server.port``)."""
    return [name for name, field in FIELDS.items() if not is_table(field)]


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        own = merged.get(key)
        merged[key] = _merge(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return merged
