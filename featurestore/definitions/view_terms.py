"""The terms of an applied view: what its status is judged by. They need no dtype, and so no Polars."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.definitions.catalog import Catalog


@dataclass(frozen=True)
class ViewTerms:
    """What an applied view promises, and when it runs.

    Args:
        name: the view's name.
        version: the version of its definition.
        data_version: the version of its stored values.
        schedule: how often it is to be materialized; None for only when asked.
        freshness: how old its latest event may be, in microseconds; None where it promises nothing.
        served: the data version that readers are given, where it is another one still.
    """

    name: str
    version: int
    data_version: int
    schedule: str | None = None
    freshness: int | None = None
    served: int | None = None


def terms_of(catalog: "Catalog") -> list[ViewTerms]:
    """Return the terms of all applied views, by their names."""
    served = {name: view.data_version for name, view in catalog.previous_versions.items()}
    return [
        ViewTerms(name, view.version, view.data_version, view.spec.schedule, view.spec.freshness, served.get(name))
        for name, view in sorted(catalog.views.items())
    ]
