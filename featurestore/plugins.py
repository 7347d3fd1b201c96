"""Plug-ins: the adapters that installed packages declare as entry points, the built-in ones among them.

There is one way to find an adapter: an entry point in the group of its kind. Ours are declared in ``pyproject.toml`` like those of
any other package. Listing reads the metadata of the installed packages and imports none of them; ``load`` imports the one module
that is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.clock import Clock  # NOTE: it loads Polars, and a list of plug-ins needs none
from featurestore.errors import ConfigError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from featurestore.clock import Clock

_OURS = "featurestore"


@dataclass(frozen=True, slots=True)
class Group:
    """One kind of plug-in.

    Args:
        name: the group of entry points.
        noun: what one of them is, as messages call it.
    """

    name: str
    noun: str


ONLINE_STORES = Group("featurestore.online_stores", "online store")
OFFLINE_STORES = Group("featurestore.offline_stores", "offline store")
FOLDERS = Group("featurestore.folders", "kind of folder")
HISTORY_SIZES = Group("featurestore.history_sizes", "reader of history sizes")
SOURCES = Group("featurestore.sources", "source")
SOURCE_READERS = Group("featurestore.source_readers", "source reader")
STREAMS = Group("featurestore.streams", "stream broker")
ENGINES = Group("featurestore.engines", "engine")
AGGREGATES = Group("featurestore.aggregates", "aggregate")

GROUPS = (ONLINE_STORES, OFFLINE_STORES, FOLDERS, HISTORY_SIZES, SOURCES, SOURCE_READERS, STREAMS, ENGINES, AGGREGATES)
"""Every kind of plug-in. The name of an entry point is the URL scheme of a store or stream, the kind of a source, the name of an
engine or aggregate; its value is a class."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a store or an engine is given beside its address.

    Args:
        root: the project's folder, where relative paths start.
        clock: tells the present.
        project: the project's name.
        threads: how many threads it may use.
        memory: how many bytes it may hold at once.
        storage_options: what is to be said of object storage besides an address, none of it secret.
        engine_settings: the table of settings that is named as the engine is.
    """

    root: Path
    clock: "Clock"
    project: str = "default"
    threads: int = 1
    memory: int = 2 << 30
    storage_options: Mapping[str, str] = field(default_factory=dict)
    engine_settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point of an installed package.

    Args:
        group: its group.
        name: its name there.
        value: the class that it names, as ``"module:Class"``.
        package: the package that declares it, with its version.
    """

    group: Group
    name: str
    value: str
    package: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value} of the package {self.package}"


def installed(group: Group) -> list[Plugin]:
    """Return the plug-ins of a group, by name and package. Nothing of them is imported.

    Raises:
        ConfigError: the metadata of featurestore itself is older than its code.

    Example:
        >>> [plugin.name for plugin in installed(ENGINES)]
        ['local', 'ray']
    """
    entries = [entry for entry in _entry_points() if entry.group == group.name]
    plugins = [Plugin(group, entry.name, entry.value, " ".join(_package(entry)).strip()) for entry in entries]
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.package))


def names(group: Group) -> list[str]:
    """Return the names that a group has, sorted.

    Example:
        >>> names(STREAMS)
        ['nats', 'redis', 'rediss', 'tls', 'unix']
    """
    return sorted({plugin.name for plugin in installed(group)})


@cache
def find(group: Group, name: str) -> Plugin | None:
    """Return the plug-in of a name; None where no installed package declares it. Nothing is imported.

    Raises:
        ConfigError: several packages declare the name.
    """
    claims = [plugin for plugin in installed(group) if plugin.name == name]
    if len(claims) > 1:
        both = "; ".join(map(str, claims))
        raise ConfigError(
            f"{len(claims)} entry points claim the {group.noun} {name!r}: {both}. Uninstall one of the packages, or ask for "
            "another name."
        )
    return claims[0] if claims else None


def load(group: Group, name: str, base: type) -> Any:
    """Import the plug-in of a name, and return its class.

    Args:
        group: the kind of plug-in.
        name: its name.
        base: what the class must be a subclass of.

    Raises:
        ConfigError: there is none of the name, several packages claim it, it cannot be imported, or it is not such a class.
        MissingExtraError: it needs an optional dependency that is not installed.
    """
    plugin = find(group, name)
    if plugin is None:
        raise ConfigError(unknown(group, name))
    loaded = _load(plugin)
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ConfigError(
            f"The {group.noun} plug-in {plugin} must be a subclass of {base.__module__}.{base.__qualname__}. Upgrade the package, "
            "or make its entry point name such a class."
        )
    return loaded


def unknown(group: Group, name: str) -> str:
    """Return the message for a name that no installed package declares: what there is, and what comes near.

    Example:
        >>> print(unknown(ENGINES, "locl"))
        No engine is named 'locl'. Did you mean 'local'? Installed: local, ray. Others come with packages that declare an entry
        point in the group featurestore.engines.
    """
    known = names(group)
    hint = did_you_mean(name, known)
    near = f" {hint}" if hint.startswith("Did you mean") else ""
    return (
        f"No {group.noun} is named {name!r}.{near} Installed: {', '.join(known)}. Others come with packages that declare an entry "
        f"point in the group {group.name}."
    )


def forget() -> None:
    """Read the metadata of the installed packages again at the next look: a package was installed or removed meanwhile."""
    for cached in (_entry_points, _package_of, find, _load):
        cached.cache_clear()


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    everything = entry_points()
    ours = tuple(entry for group in GROUPS for entry in everything.select(group=group.name))
    if {group.name for group in GROUPS} - {entry.group for entry in ours if _package(entry)[0] == _OURS}:
        raise ConfigError(
            "The entry points of featurestore's own adapters are not installed: the installed metadata is older than the code, or "
            "there is none. Install featurestore again; in a checkout: pip install -e ."
        )
    return ours


@cache
def _load(plugin: Plugin) -> Any:
    try:
        return EntryPoint(plugin.name, plugin.value, plugin.group.name).load()
    except MissingExtraError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The {plugin.group.noun} plug-in {plugin} cannot be imported: {type(error).__name__}: {error}. Upgrade or uninstall "
            "that package, or install what it needs."
        ) from error


def _package(entry: EntryPoint) -> tuple[str, str]:
    """Return the name and the version of the package that declares an entry point."""
    return _package_of(entry.dist) if entry.dist is not None else ("unknown", "")


@cache
def _package_of(package: Distribution) -> tuple[str, str]:
    # NOTE: each look at the metadata reads its file and parses it: for every entry point that took longer than all else here.
    metadata = package.metadata
    return metadata["Name"], metadata["Version"]
