"""The settings loader: ``featurestore.toml``, overridden by ``FEATURESTORE_*`` variables, then by keywords."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from featurestore.config import FIELDS, Settings
from featurestore.errors import ConfigError
from featurestore.setting_errors import FILE_NAME, explain, suggest

_PREFIX = "FEATURESTORE_"
_DELIMITER = "__"
_OF_OTHERS = frozenset({"FEATURESTORE_VENV", "FEATURESTORE_PYTHON", "FEATURESTORE_KEY"})
"""Variables that are not settings: those of this repository's scripts, and the one in which the docs keep an API key."""
_OF_KUBERNETES = re.compile(r"FEATURESTORE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
"""What Kubernetes sets in every pod for a Service whose name begins with ``featurestore``."""
_ADDRESS_OF_KUBERNETES = re.compile(r"FEATURESTORE_(.+_)?PORT")
"""This too, if the value is an address."""
_ADDRESSES = ("tcp://", "udp://", "sctp://")

_log = logging.getLogger("featurestore")
_warned: set[str] = set()


def load_settings(root: str | Path = ".", **overrides: Any) -> Settings:
    """Return the settings of the project in a folder.

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
        raise ConfigError(explain(error, FIELDS)) from error
    except SettingsError as error:
        raise ConfigError(_explain_variable()) from error
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise ConfigError(f"{folder / FILE_NAME} is not valid TOML: {error}") from error


class _Sources(Settings, BaseSettings):
    """Read settings from where they are said; the ones that come first win, key by key."""

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
        known = {_variable(name).lower() for name in FIELDS}
        self.env_vars = {name: value for name, value in self.env_vars.items() if name in known}


def _variable(name: str) -> str:
    """Return the variable of a setting."""
    return _PREFIX + name.replace(".", _DELIMITER).upper()


def _given(value: Any) -> Any:
    """Return what a keyword says of a table without the keys that are None, which are as if they were not given."""
    return {key: inner for key, inner in value.items() if inner is not None} if isinstance(value, Mapping) else value


def _check_variables() -> None:
    """Warn, once a process, of variables that look like settings and are none: a misspelling would have no effect."""
    for variable, value in os.environ.items():
        name = variable.removeprefix(_PREFIX).lower().replace(_DELIMITER, ".")
        if not variable.startswith(_PREFIX) or variable in _OF_OTHERS or variable in _warned or name in FIELDS:
            continue
        if not _sets_kubernetes(variable, value):
            _warned.add(variable)
            _log.warning("The variable %s names no setting and is passed over. %s", variable, suggest(name, FIELDS, _variable))


def _sets_kubernetes(variable: str, value: str) -> bool:
    named = _OF_KUBERNETES.fullmatch(variable) is not None
    return named or (_ADDRESS_OF_KUBERNETES.fullmatch(variable) is not None and value.startswith(_ADDRESSES))


def _explain_variable() -> str:
    """Return which variable cannot be read, without its value, which may be a secret."""
    wrong = (_variable(name) for name, field in FIELDS.items() if _is_json(field) and not _reads(os.environ.get(_variable(name))))
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
