"""Visibility: which definitions of a catalog a caller may see and query. Pure; the decision function is a parameter."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from featurestore.definitions.catalog import Catalog

AccessCheck = Callable[[str, str, str], bool]
"""Tells of an action, a kind and a name whether somebody may: ``may("read", "view", "weather")``."""


@dataclass(frozen=True)
class Visibility:
    """What somebody sees of a catalog, by name, in order.

    Args:
        services: the services that they may look at.
        views: the views, on-demand views among them.
        entities: the entities.
        sources: the sources.
        read: the services, and then the views, that they may read as a whole.
        features: the features that they may read one by one, ``weather.temp``.
        pushed: the sources that they may push to.
        everything: whether they may do whatever there is in the project.
    """

    services: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    pushed: tuple[str, ...] = ()
    everything: bool = False


def see(catalog: Catalog, may: AccessCheck) -> Visibility:
    """Return what somebody sees of a catalog.

    Example:
        >>> see(Catalog(), lambda action, kind, name: True)
        Visibility(services=(), views=(), entities=(), sources=(), read=(), features=(), pushed=(), everything=True)
    """

    def those(action: str, kind: str, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in sorted(names) if may(action, kind, name))

    views = {name: applied.spec.feature_names for name, applied in catalog.served.items()}
    views |= {name: spec.feature_names for name, spec in catalog.on_demand.items()}
    return Visibility(
        services=those("read", "service", catalog.services),
        views=those("read", "view", views),
        entities=those("read", "entity", catalog.entities),
        sources=those("read", "source", catalog.sources),
        read=(*those("read", "features", catalog.services), *those("read", "features", views)),
        features=those("read", "features", [f"{view}.{name}" for view, names in views.items() for name in names]),
        pushed=those("write", "source", catalog.sources),
        everything=may("admin", "all", ""),
    )
