"""References: how a service or a call names features, renames them, and maps join keys to spine columns."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from featurestore.clock import parse_duration
from featurestore.errors import RequestError


@dataclass(frozen=True)
class ViewReference:
    """All features of a view, perhaps with a prefix, perhaps joined by other columns than its own keys.

    Example:
        >>> ViewReference("weather").on(origin="dest").prefix("dest_")
        weather.on(origin='dest').prefix('dest_')
    """

    view: str
    name_prefix: str = ""
    key_columns: tuple[tuple[str, str], ...] = ()

    def prefix(self, prefix: str) -> "ViewReference":
        """Return the same features, each named with this before its name."""
        return replace(self, name_prefix=prefix)

    def on(self, **columns: str) -> "ViewReference":
        """Return the same features joined by other columns: ``on(join_key="column of the spine")``."""
        return replace(self, key_columns=tuple(columns.items()))

    def __repr__(self) -> str:
        return self.view + _said(self.key_columns, self.name_prefix)


@dataclass(frozen=True)
class FeatureReference:
    """One feature of a view, perhaps under another name, perhaps joined by other columns than its view's own keys.

    Example:
        >>> FeatureReference("weather", "temp").alias("t")
        weather.temp.alias('t')
    """

    view: str
    feature: str
    new_name: str | None = None
    name_prefix: str = ""
    key_columns: tuple[tuple[str, str], ...] = ()
    label: str = field(default="", compare=False)
    windows: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    """For a windowed feature's attribute: each window, and the feature that it makes."""

    def __getitem__(self, window: str | timedelta) -> "FeatureReference":
        """Return the feature of one window: ``CarrierDelays.mean_delay["1d"]``."""
        size = parse_duration(window)
        for text, feature in self.windows:
            if parse_duration(text) == size:
                label = f"{self.label}[{text!r}]" if self.label else ""
                return replace(self, feature=feature, label=label, windows=((text, feature),))
        known = ", ".join(repr(text) for text, _ in self.windows)
        raise RequestError(
            f"{self!r} has no window {window!r}. "
            + (f"It has {known}." if known else "It is not the attribute of a windowed feature.")
        )

    def __iter__(self) -> Iterator["FeatureReference"]:
        raise TypeError(f"{self!r} is one reference; put it into a list.")

    def alias(self, name: str) -> "FeatureReference":
        """Return the same feature under another name."""
        return replace(self, new_name=name, label="")

    def prefix(self, prefix: str) -> "FeatureReference":
        """Return the same feature, named with this before its name."""
        return replace(self, name_prefix=prefix, label="")

    def on(self, **columns: str) -> "FeatureReference":
        """Return the same feature joined by other columns: ``on(join_key="column of the spine")``."""
        return replace(self, key_columns=tuple(columns.items()), label="")

    @property
    def column(self) -> str:
        """The column's name in a result."""
        return self.name_prefix + (self.new_name or self.feature)

    def __repr__(self) -> str:
        if self.label:
            return self.label
        renamed = f".alias({self.new_name!r})" if self.new_name else ""
        return f"{self.view}.{self.feature}" + renamed + _said(self.key_columns, self.name_prefix)


def _said(key_columns: tuple[tuple[str, str], ...], prefix: str) -> str:
    on = f".on({', '.join(f'{key}={column!r}' for key, column in key_columns)})" if key_columns else ""
    return on + (f".prefix({prefix!r})" if prefix else "")


Reference = ViewReference | FeatureReference


@runtime_checkable
class Referable(Protocol):
    """What stands for references of its own: a feature view's class, a feature service."""

    def __references__(self) -> tuple[Reference, ...]:
        """Return the references it stands for."""


def parse_references(given: Any, *, where: str = "features") -> tuple[Reference, ...]:
    """Return the references that a view, feature, service, ``"view"``, ``"view.feature"`` or a list of these names.

    Whether the names exist is the registry's to say; here they are only taken apart.

    Raises:
        RequestError: something given is none of these.

    Example:
        >>> parse_references(["weather.temp", "planes"])
        (weather.temp, planes)
    """
    if isinstance(given, (ViewReference, FeatureReference)):
        return (given,)
    if isinstance(given, str):
        view, dot, feature = given.partition(".")
        return (FeatureReference(view, feature) if dot else ViewReference(view),)
    if isinstance(given, Referable):
        return given.__references__()
    if isinstance(given, Iterable):
        return tuple(reference for item in given for reference in parse_references(item, where=where))
    raise RequestError(
        f"{given!r} is not a feature ({where}). Name features by attribute (Weather.temp), by view (Weather), "
        'by string ("weather.temp", "weather"), by a FeatureService, or by a list of these.'
    )


def reference_of(values: Mapping[str, Any]) -> Reference:
    """Return the reference that plain values, as the registry keeps them, stand for."""
    named = {**values, "key_columns": tuple((key, column) for key, column in values.get("key_columns", ()))}
    return FeatureReference(**named) if "feature" in named else ViewReference(**named)
