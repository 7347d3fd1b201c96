"""Settings: ``featurestore.toml``, overridden by ``FEATURESTORE_*`` variables, then by keywords."""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from featurestore.clock import check_schedule, check_zone, format_duration, parse_length
from featurestore.errors import ConfigError, DefinitionError, did_you_mean
from featurestore.suggestion import nearest

FILE_NAME = "featurestore.toml"
_PREFIX = "FEATURESTORE_"
_DELIMITER = "__"
_OF_OTHERS = frozenset({"FEATURESTORE_VENV", "FEATURESTORE_PYTHON", "FEATURESTORE_KEY"})
"""Variables that are not settings: those of this repository's scripts, and the one in which the docs keep an API key."""
_OF_KUBERNETES = re.compile(r"FEATURESTORE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
"""What Kubernetes sets in every pod for a Service whose name begins with ``featurestore``."""
_ADDRESS_OF_KUBERNETES = re.compile(r"FEATURESTORE_(.+_)?PORT")
"""This too, if the value is an address."""
_ADDRESSES = ("tcp://", "udp://", "sctp://")
_SECRET = frozenset({"online", "registry", "tombstone_secret", "webhook"})
"""Settings whose values may hold a password: no message shows them."""
_NOTHING = timedelta()

_log = logging.getLogger("featurestore")
_warned: set[str] = set()


class _NoUnitError(ValueError):
    """A duration was expected, and something else is there; it says itself what."""


def _to_duration(value: Any) -> timedelta:
    """Return what a setting says as a duration: a string with a unit, or a ``timedelta``; a bare number has no unit."""
    if not isinstance(value, (str, timedelta)) or _is_number(value):
        raise _NoUnitError(f"{value!r} must be a duration such as '{_as_seconds(value)}' (units: us ms s m h d w)")
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
        >>> load_settings(".", server={"request_timeout": "5s"}).server.request_timeout
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
        >>> load_settings(".", retention={"logs": "90d"}).retention.logs
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


class Settings(_Table):
    """The settings of one project, each with its default.

    Relative paths in them start at ``root``, the project's folder.

    Example:
        >>> load_settings(".", project="flights").online
        'lmdb:.featurestore/online'
    """

    root: Path = Field(default=Path(), description="The project's folder.")
    project: str = Field(default="default", description="The name under which registry and stores keep the project.")
    definitions: str = Field(default="definitions", description="The folder of definition modules.")
    registry: str = Field(default="sqlite:///.featurestore/registry.db", description="A SQLite or postgresql+psycopg address.")
    offline: str = Field(default=".featurestore/offline", description="The folder of the history, or the scheme:// of a plug-in.")
    online: str = Field(
        default="lmdb:.featurestore/online",
        description="lmdb:folder, redis://, rediss://, redis+cluster://, unix:// or a plug-in's.",
    )
    engine: str = Field(default="local", description="What runs training frames: local, or the name of a plug-in.")
    memory_gib: float = Field(default=2.0, gt=0, description="The memory in GiB that the local engine's tasks may hold at once.")
    threads: int = Field(default=0, ge=0, description="The local engine's parallel tasks; 0 means one a core.")
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
    stream: StreamSettings = Field(default=StreamSettings(), description="The stream worker.")
    maintenance: MaintenanceSettings = Field(default=MaintenanceSettings(), description="The upkeep of the stores.")

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
            raise ConfigError(_explain(error)) from error

    @field_validator("project")
    @classmethod
    def _plain_project(cls, value: str) -> str:
        if not value.replace("_", "").replace("-", "").isalnum():
            raise ValueError("a project's name is made of letters, digits, - and _")
        return value

    @field_validator("webhook")
    @classmethod
    def _webhook(cls, value: str) -> str:
        if value and not is_webhook(value):
            raise ValueError("it is not an http:// or https:// address")
        return value


def load_settings(root: str | Path = ".", **overrides: Any) -> Settings:
    """Returns the settings of the project in a folder.

    Tables are merged key by key: a variable overrides one key of the file's table, a keyword's mapping those that it has.

    Args:
        root: the project's folder; it needs no ``featurestore.toml``.
        overrides: settings by name, which win over the file and the environment; those of a table as a mapping
            (``server={"port": 0}``), or all of them as a model (``ServerSettings(port=0)``). A None is as if it were not given.

    Raises:
        ConfigError: the folder is not there, the file is not TOML, or a setting is unknown or of the wrong form.
    """
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"The project's folder {str(folder)!r} is not there. Run: featurestore init {folder.name}")
    given = {name: _given(value) for name, value in overrides.items() if value is not None}
    _check_variables()
    try:
        return Settings(**dict(_Sources(root=folder, **given)))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    except SettingsError as error:
        raise ConfigError(_explain_variable()) from error
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise ConfigError(f"{folder / FILE_NAME} is not valid TOML: {error}") from error


def is_webhook(url: str) -> bool:
    """Tells whether something is an address that notices can be posted to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


# -- sources -------------------------------------------------------------------------------------------------------------


class _Sources(Settings, BaseSettings):
    """Reads settings from where they are said; the ones that come first win, key by key."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        root = Path(init_settings().get("root", "."))
        return init_settings, _Variables(settings_cls), TomlConfigSettingsSource(settings_cls, toml_file=root / FILE_NAME)


class _Variables(EnvSettingsSource):
    """The settings among the variables. Others of our prefix, of Kubernetes or misspelled, must not end a pod."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        known = {_variable(name).lower() for name in _FIELDS}
        self.env_vars = {name: value for name, value in self.env_vars.items() if name in known}


def _fields(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield before + name, field
        if _is_table(field):
            yield from _fields(field.annotation, f"{before}{name}.")  # type: ignore[arg-type]  # it is a model


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, _Table)


def setting_names() -> list[str]:
    """Return the names of all settings, those in tables with dots (``server.port``)."""
    return [name for name, field in _FIELDS.items() if not _is_table(field)]


def _tables() -> list[str]:
    return [name for name, field in _FIELDS.items() if _is_table(field)]


_FIELDS = {name: field for name, field in _fields(Settings) if name != "root"}
"""The settings and tables by their dotted names."""


def _variable(name: str) -> str:
    """Return the variable of a setting."""
    return _PREFIX + name.replace(".", _DELIMITER).upper()


def _given(value: Any) -> Any:
    """Return what a keyword says of a table without the keys that are None, which are as if they were not given."""
    return {key: inner for key, inner in value.items() if inner is not None} if isinstance(value, Mapping) else value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        own = merged.get(key)
        merged[key] = _merge(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return merged


def _check_variables() -> None:
    """Warns, once a process, of variables that look like settings and are none: a misspelling would have no effect."""
    for variable, value in os.environ.items():
        name = variable.removeprefix(_PREFIX).lower().replace(_DELIMITER, ".")
        if not variable.startswith(_PREFIX) or variable in _OF_OTHERS or variable in _warned or name in _FIELDS:
            continue
        if not _sets_kubernetes(variable, value):
            _warned.add(variable)
            _log.warning("The variable %s names no setting and is passed over. %s", variable, _suggest(name, _variable))


def _sets_kubernetes(variable: str, value: str) -> bool:
    named = _OF_KUBERNETES.fullmatch(variable) is not None
    return named or (_ADDRESS_OF_KUBERNETES.fullmatch(variable) is not None and value.startswith(_ADDRESSES))


# -- messages ------------------------------------------------------------------------------------------------------------


_RENAMED = {
    "refresh_seconds": "catalog_refresh",
    "server_decoder_mib": "server.decoder_memory_mib",
    "server_decoder_seconds": "server.decoder_timeout",
    "server_pushes": "server.max_concurrent_pushes",
    "server_pushes_waiting": "server.max_waiting_pushes",
    "server_worker_seconds": "server.worker_timeout",
    "server_seconds": "server.request_timeout",
    "server_training": "server.max_concurrent_training",
    "server_head_seconds": "server.head_timeout",
    "schedule_seconds": "schedule.interval",
    "schedule_retry_seconds": "schedule.retry_delay",
    "schedule_lease_seconds": "schedule.lease",
    "schedule_retry_longest_seconds": "schedule.retry_max_delay",
    "schedule_wait_seconds": "schedule.source_poll",
    "keep_files_days": "retention.files",
    "keep_versions_days": "retention.versions",
    "keep_logs_days": "retention.logs",
    "log_seconds": "feature_log.flush_interval",
    "upkeep_schedule": "maintenance.schedule",
}
"""Settings of before there were tables, whose names of now resemble others more."""


def _suggest(name: str, write: Callable[[str], str] = str) -> str:
    """Return what to write instead of a name that is not a setting.

    Args:
        name: the name, with dots.
        write: writes a setting's name as it is written where the wrong one was found.
    """
    plain = name.replace(".", "_")
    if "." not in name:  # server_port, of before there were tables
        name = next((f"{table}.{plain.removeprefix(f'{table}_')}" for table in _tables() if plain.startswith(f"{table}_")), name)
    table, _, key = name.rpartition(".")
    inside = [each.removeprefix(f"{table}.") for each in _FIELDS if each.rpartition(".")[0] == table]
    near = (
        [_RENAMED[plain]] if plain in _RENAMED else
        [each for each in _FIELDS if each.replace(".", "_") == plain]
        or [f"{table}.{each}".lstrip(".") for each in nearest(key, inside)]
        or [each for each in _FIELDS if each.rpartition(".")[2] == key]
        or ([] if table in _FIELDS else nearest(name, _FIELDS))
    )  # fmt: skip
    if near:
        return f"Did you mean {' or '.join(repr(write(each)) for each in near)}?"
    names = inside or [each for each in _FIELDS if "." not in each]
    return did_you_mean("", [write(f"{table}.{each}" if inside and table else each) for each in names])


def _explain(error: ValidationError) -> str:
    return "\n".join(_explain_fault(fault) for fault in error.errors())


def _explain_fault(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    value, said = fault["input"], fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"There is no setting {name!r} (in {FILE_NAME}, a FEATURESTORE_ variable or a keyword). {_suggest(name)}"
    if fault["type"] == "model_type":
        first = next(each for each in _FIELDS if each.startswith(f"{name}."))
        return f"{name!r} is a table of settings, not {value!r}. Write its settings by their names, such as {first!r}."
    if fault["loc"][0] in _SECRET or isinstance(fault.get("ctx", {}).get("error"), _NoUnitError):
        return f"The setting {name!r} is wrong: {said}."
    if isinstance(value, timedelta):
        value = format_duration(value // timedelta(microseconds=1)) if value >= _NOTHING else str(value)
    return f"The setting {name!r} is {value!r}: {said}."


def _explain_variable() -> str:
    """Return which variable cannot be read, without its value, which may be a secret."""
    wrong = (_variable(name) for name, field in _FIELDS.items() if _is_json(field) and not _reads(os.environ.get(_variable(name))))
    variable = next(wrong, f"{_PREFIX}…")
    return f'The variable {variable} is not valid JSON. Write lists and mappings as JSON, \'{{"admins": "admin"}}\' for one.'


def _is_json(field: FieldInfo) -> bool:
    kind = get_origin(field.annotation) or field.annotation
    return isinstance(kind, type) and issubclass(kind, (tuple, dict, BaseModel))


def _reads(value: str | None) -> bool:
    try:
        json.loads("null" if value is None else value)
    except ValueError:
        return False
    return True
