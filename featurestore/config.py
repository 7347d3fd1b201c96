"""Settings: ``featurestore.toml``, overridden by ``FEATURESTORE_*`` variables, then by keywords."""

import logging
import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from featurestore.clock import check_schedule, check_zone
from featurestore.errors import ConfigError, DefinitionError, did_you_mean

FILE_NAME = "featurestore.toml"
_PREFIX = "FEATURESTORE_"
_OF_OTHERS = frozenset({"FEATURESTORE_VENV", "FEATURESTORE_PYTHON", "FEATURESTORE_KEY"})
"""Variables that are no settings: those of this repository's scripts, and the one in which the docs keep an API key."""
_OF_KUBERNETES = re.compile(r"FEATURESTORE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
"""What Kubernetes sets in every pod for a Service whose name begins with ``featurestore``."""
_ADDRESSES = ("tcp://", "udp://", "sctp://")

_log = logging.getLogger("featurestore")
_warned: set[str] = set()


class Settings(BaseSettings):
    """The settings of one project, each with its default.

    Relative paths in them start at ``root``, the project's folder.

    Example:
        >>> load_settings(".", project="flights").online
        'lmdb:.featurestore/online'
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

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
    refresh_seconds: float = Field(default=2.0, gt=0, description="How often a reader looks whether another process applied.")
    server_host: str = Field(default="127.0.0.1", description="The address that serve listens on.")
    server_port: int = Field(default=8372, ge=0, le=65535, description="The port that serve listens on; 0 takes a free one.")
    server_workers: int = Field(default=1, gt=0, description="How many processes serve.")
    server_body_mib: float = Field(default=32.0, gt=0, description="The MiB that the body of a look-up or push may have.")
    server_spine_mib: float = Field(default=1100.0, gt=0, description="The MiB that a spine sent to the server may have.")
    server_memory_mib: float = Field(default=64.0, gt=0, description="The MiB of a spine that the server works on in memory.")
    server_rows: int = Field(default=10_000, gt=0, description="The rows that a look-up or a push may have.")
    server_values: int = Field(default=1_000_000, gt=0, description="The values that a body of JSON or MessagePack may have.")
    server_columns: int = Field(default=500, gt=0, description="The columns that a body may have, and the features of a look-up.")
    server_decoded_mib: float = Field(default=256.0, gt=0, description="The MiB that a body may have once it is decoded.")
    server_spine_rows: int = Field(default=10_000_000, gt=0, description="The rows that a spine sent to the server may have.")
    server_spine_decoded_mib: float = Field(default=1024.0, gt=0, description="The MiB that a spine may have once it is decoded.")
    server_decoders: int = Field(default=2, gt=0, description="How many processes decode Arrow and Parquet for the server.")
    server_decoder_mib: float = Field(default=512.0, gt=0, description="The MiB that decoding one body may take.")
    server_decoder_seconds: float = Field(default=30.0, gt=0, description="How long decoding one body may take.")
    server_bodies_mib: float = Field(default=256.0, gt=0, description="The MiB of all bodies that a process works on at once.")
    server_pushes: int = Field(default=4, gt=0, description="How many pushes a process of the server works on at once.")
    server_pushes_waiting: int = Field(default=16, ge=0, description="How many pushes may wait; more are refused with 503.")
    server_worker_seconds: float = Field(
        default=120.0, gt=0, description="How long a worker process may not answer, as it starts too, before it is replaced."
    )
    server_seconds: float = Field(default=30.0, gt=0, description="How long a request may take, training frames excepted.")
    server_training: int = Field(default=2, gt=0, description="How many training frames a process of the server makes at once.")
    server_training_seconds: float = Field(default=3600.0, gt=0, description="How long a training frame may take on the server.")
    server_connections: int = Field(default=1000, gt=0, description="The connections that a process of the server has at once.")
    server_connections_of_address: int = Field(default=0, ge=0, description="Those of one address; 0 for all of them.")
    server_head_kib: float = Field(default=32.0, gt=0, description="The KiB that the head of a request may have.")
    server_headers: int = Field(default=100, gt=0, description="The headers that a request may have.")
    server_head_seconds: float = Field(default=10.0, gt=0, description="How long the head of a request may take to come.")
    server_keep_alive_seconds: float = Field(default=30.0, gt=0, description="How long a connection may wait for its next request.")
    server_shutdown_seconds: float = Field(default=30.0, gt=0, description="How long requests may take to end with the server.")
    server_tls_cert: str = Field(default="", description="The certificate of the server, a PEM file; empty for plain HTTP.")
    server_tls_key: str = Field(default="", description="The key of the certificate, a PEM file.")
    access: Literal["auto", "required", "open"] = Field(
        default="auto",
        description="Who is admitted: auto asks for keys but of this machine while there is none, required always, open never.",
    )
    server_origins: tuple[str, ...] = Field(
        default=(),
        description="The origins whose pages may ask the server in a browser (CORS).",
    )
    oidc_issuer: str = Field(default="", description="The OpenID Connect issuer whose tokens count; empty for none.")
    oidc_audience: str = Field(default="", description="Whom the tokens are meant for: this server, as the issuer calls it.")
    oidc_jwks: str = Field(default="", description="Where the issuer's keys are; empty to ask the issuer.")
    oidc_algorithms: tuple[str, ...] = Field(default=("RS256", "ES256"), description="The signatures that count.")
    oidc_leeway: float = Field(default=30.0, ge=0, le=300, description="By how many seconds the issuer's clock may differ.")
    oidc_claim: str = Field(default="roles", description="The claim whose names are granted something, dots leading inwards.")
    oidc_grants: dict[str, str] = Field(default={}, description="What each of these names is granted.")
    log_seconds: float = Field(default=60.0, gt=0, description="How often the server writes sampled answers to the feature log.")
    audit: str = Field(default="", description="Where who asked for what is written: a file, or stderr; empty for nowhere.")
    tombstone_secret: str = Field(
        default="",
        repr=False,
        description="What the hashes of forgotten entities are made with; empty for a file beside the history.",
    )
    webhook: str = Field(default="", description="Where views that are late or failed are told to, as JSON; empty for nowhere.")
    schedule_seconds: float = Field(default=1.0, gt=0, description="How often the scheduler looks what is due.")
    schedule_parallel: int = Field(default=2, gt=0, description="How many views a scheduler runs at once.")
    schedule_timezone: str = Field(default="UTC", description="The time zone of cron lines that name none.")
    schedule_attempts: int = Field(default=5, gt=0, description="How often a due run is tried before it counts as failed.")
    schedule_retry_seconds: float = Field(default=10.0, gt=0, description="The pause after a first failed attempt; it doubles.")
    schedule_retry_longest_seconds: float = Field(default=600.0, gt=0, description="The longest pause between two attempts.")
    schedule_wait_seconds: float = Field(default=10.0, gt=0, description="How often a source that is not there is looked for.")
    schedule_lease_seconds: float = Field(
        default=30.0, gt=0, description="After how long others take over what a scheduler that died was at."
    )
    schedule_shutdown_seconds: float = Field(default=30.0, ge=0, description="How long runs may take to end with the scheduler.")
    stream_pending_seconds: float = Field(
        default=300.0, ge=0, description="How long a stream's entry whose row is not known yet may wait before it is set aside."
    )
    upkeep_schedule: str = Field(default="1h", description="When the scheduler sees to each view's upkeep; empty for never.")
    keep_files_days: float = Field(
        default=7.0, ge=0, le=30, description="For how many days files stay that a history has replaced: so long a reader may take."
    )
    keep_versions_days: float = Field(
        default=30.0, ge=0, description="For how many days rows stay that are neither applied nor served: so long one can return."
    )
    keep_logs_days: float = Field(default=0.0, ge=0, description="For how many days the feature log stays; 0 is for ever.")
    file_mode: Literal["owner", "group"] = Field(
        default="owner", description="Who may read and write the files of the stores: their owner, or their group too."
    )
    tracing: bool = Field(default=False, description="Whether the server tells OpenTelemetry of its requests.")

    @property
    def history_folder(self) -> Path:
        """The folder of the history; of a history that is elsewhere, that of what this machine keeps beside it."""
        elsewhere = "://" in self.offline and not self.offline.startswith("file://")
        return self.root / Path(".featurestore/offline" if elsewhere else self.offline.removeprefix("file://")).expanduser()

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

    @field_validator("upkeep_schedule")
    @classmethod
    def _schedule(cls, value: str) -> str:
        try:
            return check_schedule(value) if value else value
        except DefinitionError as error:
            raise ValueError(str(error)) from error

    @field_validator("schedule_timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        return check_zone(value)

    @classmethod
    def settings_customise_sources(  # noqa: D102 - documented by pydantic-settings
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
    """The settings among the variables. Of a Service named ``featurestore-server`` Kubernetes sets one that is none."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        if str(values.get("server_port", "")).startswith(_ADDRESSES):
            del values["server_port"]
        return values


def load_settings(root: str | Path = ".", **overrides: Any) -> Settings:
    """Returns the settings of the project in a folder.

    Args:
        root: the project's folder; it needs no ``featurestore.toml``.
        overrides: settings by name, which win over the file and the environment. A None is as if it were not given.

    Raises:
        ConfigError: the folder is not there, the file is not TOML, or a setting is unknown or of the wrong form.
    """
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"The project's folder {str(folder)!r} is not there. Run: featurestore init {folder.name}")
    given = {name: value for name, value in overrides.items() if value is not None}
    _check_variables()
    try:
        return Settings(root=folder, **given)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from error
    except SettingsError as error:
        raise ConfigError(_explain_variable(error)) from error
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise ConfigError(f"{folder / FILE_NAME} is not valid TOML: {error}") from error


def _check_variables() -> None:
    """Warns, once a process, of variables that look like settings and are none: a misspelling would have no effect."""
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX).lower()
        if not variable.startswith(_PREFIX) or variable in _OF_OTHERS or variable in _warned:
            continue
        if (name == "root" or name not in Settings.model_fields) and not _OF_KUBERNETES.fullmatch(variable):
            _warned.add(variable)
            _log.warning("The variable %s names no setting and is passed over. %s", variable, did_you_mean(name, _names()))


def _explain_variable(error: SettingsError) -> str:
    """Says which variable cannot be read. What it holds may be a secret, and is not told."""
    name = re.search(r'field "(\w+)"', str(error))
    told = f"The variable {_PREFIX}{name[1].upper()}" if name else "A FEATURESTORE_ variable"
    return f'{told} is not valid JSON. Write lists and mappings as JSON, \'{{"admins": "admin"}}\' for one.'


def _names() -> list[str]:
    return [name for name in Settings.model_fields if name != "root"]


def is_webhook(url: str) -> bool:
    """Tells whether something is an address that notices can be posted to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _explain(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if name == "webhook":  # what it holds may be a secret
        return f"The setting 'webhook' is wrong: {fault['msg']}."
    if fault["type"] == "extra_forbidden":
        near = did_you_mean(name, _names())
        return f"There is no setting {name!r} (in {FILE_NAME}, a FEATURESTORE_ variable or a keyword). {near}"
    return f"The setting {name!r} is {fault['input']!r}: {fault['msg']}."
