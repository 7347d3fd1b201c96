"""Messages about wrong settings: which one, what is wrong with it, and what was meant."""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from featurestore.clock import format_duration
from featurestore.errors import did_you_mean
from featurestore.suggestion import nearest

FILE_NAME = "featurestore.toml"
"""The file of a project's settings."""

Fields = Mapping[str, FieldInfo]
"""Settings and tables of settings by their dotted names."""

_SECRET = frozenset({"online", "registry", "storage_options", "tombstone_secret", "webhook"})
"""Settings whose values may hold a password: no message shows them."""

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


class MissingUnitError(ValueError):
    """A duration was expected, and something else is there; it says itself what."""


def fields_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the settings and tables of a model, by their dotted names."""
    for name, field in model.model_fields.items():
        yield before + name, field
        if is_table(field):
            yield from fields_of(field.annotation, f"{before}{name}.")  # type: ignore[arg-type]  # it is a model


def is_table(field: FieldInfo) -> bool:
    """Return whether a field is a table of settings."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def suggest(name: str, fields: Fields, write: Callable[[str], str] = str) -> str:
    """Return what to write instead of a name that is not a setting.

    Args:
        name: the name, with dots.
        fields: the settings and tables.
        write: writes a setting's name as it is written where the wrong one was found.
    """
    plain, tables = name.replace(".", "_"), [known for known, field in fields.items() if is_table(field)]
    if "." not in name:  # server_port, of before there were tables
        name = next((f"{table}.{plain.removeprefix(f'{table}_')}" for table in tables if plain.startswith(f"{table}_")), name)
    table, _, key = name.rpartition(".")
    inside = [known.removeprefix(f"{table}.") for known in fields if known.rpartition(".")[0] == table]
    near = (
        [_RENAMED[plain]] if plain in _RENAMED else
        [known for known in fields if known.replace(".", "_") == plain]
        or [f"{table}.{known}".lstrip(".") for known in nearest(key, inside)]
        or [known for known in fields if known.rpartition(".")[2] == key]
        or ([] if table in fields else nearest(name, fields))
    )  # fmt: skip
    if near:
        return f"Did you mean {' or '.join(repr(write(known)) for known in near)}?"
    names = inside or [known for known in fields if "." not in known]
    return did_you_mean("", [write(f"{table}.{known}" if inside and table else known) for known in names])


def explain(error: ValidationError, fields: Fields) -> str:
    """Return what is wrong with some settings, a line each."""
    return "\n".join(_explain_fault(fault, fields) for fault in error.errors())


def _explain_fault(fault: Any, fields: Fields) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    value, said = fault["input"], fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"There is no setting {name!r} (in {FILE_NAME}, a FEATURESTORE_ variable or a keyword). {suggest(name, fields)}"
    if fault["type"] == "model_type":
        first = next(known for known in fields if known.startswith(f"{name}."))
        return f"{name!r} is a table of settings, not {value!r}. Write its settings by their names, such as {first!r}."
    if fault["loc"][0] in _SECRET or isinstance(fault.get("ctx", {}).get("error"), MissingUnitError):
        return f"The setting {name!r} is wrong: {said}."
    if isinstance(value, timedelta):
        value = format_duration(value // timedelta(microseconds=1)) if value >= timedelta() else str(value)
    return f"The setting {name!r} is {value!r}: {said}."
