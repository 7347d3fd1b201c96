"""The access policy: what a set of grants allows in a catalog. Pure; the server asks it and caches the answers.

What is judged is what would really be read: a service is taken apart into its features, a family into its windows, and a
feature that is computed on demand is granted with its view only to whom its inputs are granted too.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

from featurestore.access.grants import Grant
from featurestore.access.pii import personal_features
from featurestore.definitions.catalog import Catalog
from featurestore.definitions.reference import FeatureReference, Reference, ViewReference, parse_references
from featurestore.errors import NameClashError, NotFoundError, RequestError
from featurestore.selection.resolve import ResolvedReference, find_columns, find_inputs

Grants = Sequence[Grant]
_Feature = tuple[str, str]
"""A view's name and a feature's."""

_UNFOUND = (NotFoundError, NameClashError, RequestError)


class Policy:
    """What may be done in a catalog.

    Args:
        catalog: what is applied.

    Example:
        >>> Policy(Catalog()).refusal([Grant("writer", "project")], "read", "features", ["weather.temp"])
        "may not read 'weather.temp'; that takes the grant of a reader"
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._given = lru_cache(maxsize=None)(self._given_by)
        self._in_sight = lru_cache(maxsize=64)(self._seen_by)

    def refusal(self, grants: Grants, action: str, kind: str, names: Sequence[str]) -> str:
        """Return why somebody may not do something; empty where they may. What nothing allows is refused.

        Args:
            grants: theirs.
            action: ``read``, ``write`` or ``admin``.
            kind: what the names are: ``features``, ``source``, ``service``, ``view``, ``entity``; or without names ``catalog``
                (the lists of what there is), ``metrics``, ``all`` (the project).
            names: as they are asked for; of features references.
        """
        if action == "read" and kind == "features":
            return self._read(_of(grants, "reader"), names)
        if action == "write" and kind == "source":
            return self._write(_of(grants, "writer"), names)
        if action == "read" and kind in ("service", "view", "entity", "source") and names:
            return self._look(tuple(_lookers(grants)), kind, names)
        if action == "read" and kind == "catalog":
            return "" if any(_lookers(grants)) else "may not look at what there is; that takes the grant of a reader or writer"
        if action == "read" and kind == "metrics":
            return "" if _wide(grants) else "may not read the metrics; that takes the grant of a monitor for the project"
        if action == "write" and kind in ("view", "all"):
            return "" if _wide(_of(grants, "writer")) else "may not write that; it takes the grant of a writer for the project"
        if action in ("read", "write", "admin") and _wide(grant for grant in grants if grant.role == "admin"):
            return ""
        return "may not do that; it takes the grant of an admin for the project"

    def _read(self, grants: Grants, names: Sequence[str]) -> str:
        if not names and not grants:
            return "may not look anything up; that takes the grant of a reader"
        for name in names:
            refusal = f"may not read {name!r}"
            if not grants:
                return f"{refusal}; that takes the grant of a reader"
            for reference in self._expanded(parse_references(name)):
                try:
                    columns = find_columns(self._catalog, reference)
                except _UNFOUND:
                    # Who may know all there is, or this view, is told by the reading what is wrong with the name.
                    if _wide(grants) or any(grant.scope == "view" and grant.name == reference.view for grant in grants):
                        continue
                    return refusal
                for column in columns:
                    if column.kind != "request" and not self._allowed(grants, column):
                        open_to = self._is_personal(column) and self._allowed(grants, column, personal=False)
                        what = f"{column.owner}.{column.feature.name}"
                        return f"{refusal}: {what} is personal information, which takes a grant with pii" if open_to else refusal
        return ""

    def _allowed(
        self, grants: Grants, column: ResolvedReference, *, personal: bool = True, above: frozenset[_Feature] = frozenset()
    ) -> bool:
        """Return whether a feature may be read; ``personal=False`` overlooks that some take a grant with pii."""
        count = [grant for grant in grants if grant.pii] if personal and self._is_personal(column) else grants
        if _wide(count):
            return True
        owner, name = column.owner, column.feature.name
        if any(grant.scope == "service" and (owner, name) in self._given(grant.name) for grant in count):
            return True
        if not any(grant.scope == "view" and grant.name == owner for grant in count):
            return False
        if column.kind == "view":
            return True
        if (owner, name) in above:  # a circle, which cannot be computed
            return False
        inputs = [grant for grant in self._inputs(owner, name) if grant.kind != "request"]
        return all(self._allowed(grants, grant, personal=personal, above=above | {(owner, name)}) for grant in inputs)

    def _look(self, grants: tuple[Grant, ...], kind: str, names: Sequence[str]) -> str:
        if _wide(grants):
            return ""
        seen = self._in_sight(grants)[kind]
        return next((f"may not look at the {kind} {name!r}" for name in names if name not in seen), "")

    def _seen_by(self, grants: tuple[Grant, ...]) -> dict[str, set[str]]:
        """Return what grants for services and views let one look at: these themselves, and what they are of."""
        services = {grant.name for grant in grants if grant.scope == "service"}
        views = {grant.name for grant in grants if grant.scope == "view"}
        columns = [column for name in services for column in self._columns_of(name)]
        columns += self._find(ViewReference(name) for name in views)
        stored = self._stored_of(columns)
        return {
            "service": services,
            "view": views,
            "entity": {self._catalog.served[name].spec.entity.name for name in stored},
            "source": {self._catalog.served[name].spec.source.name for name in views & self._catalog.served.keys()},
        }

    def _write(self, grants: Grants, sources: Sequence[str]) -> str:
        for source in sources:
            if not grants:
                return f"may not push to {source!r}; that takes the grant of a writer"
            if _wide(grants):
                continue
            fed = {name for name, applied in self._catalog.views.items() if applied.spec.source.name == source}
            writable = {grant.name for grant in grants if grant.scope == "view"}
            for grant in grants:
                if grant.scope == "service":
                    writable |= self._stored_of(self._columns_of(grant.name))
            if not fed or not fed <= writable:
                return f"may not push to {source!r}; that takes the grant of a writer for every view on it"
        return ""

    def _expanded(self, references: Iterable[Reference]) -> Iterable[Reference]:
        for reference in references:
            if not isinstance(reference, FeatureReference) and reference.view in self._catalog.services:
                yield from self._catalog.services[reference.view].references
            else:
                yield reference

    def _is_personal(self, column: ResolvedReference) -> bool:
        return column.feature.name in self._personal.get(column.owner, ())

    @cached_property
    def _personal(self) -> dict[str, frozenset[str]]:
        return dict(personal_features(self._catalog))

    def _given_by(self, service: str) -> frozenset[_Feature]:
        """Return the features that a service gives; none where there is no such service."""
        return frozenset((column.owner, column.feature.name) for column in self._columns_of(service))

    def _stored_of(self, columns: Iterable[ResolvedReference]) -> set[str]:
        """Return the views whose rows the values of columns come from."""
        views: set[str] = set()
        seen: set[_Feature] = set()
        ahead = list(columns)
        while ahead:
            column = ahead.pop()
            if column.kind == "view":
                views.add(column.owner)
            elif column.kind == "on_demand" and (column.owner, column.feature.name) not in seen:
                seen.add((column.owner, column.feature.name))
                ahead += self._inputs(column.owner, column.feature.name)
        return views

    def _columns_of(self, service: str) -> list[ResolvedReference]:
        known = self._catalog.services.get(service)
        return self._find(known.references if known is not None else ())

    def _find(self, references: Iterable[Reference]) -> list[ResolvedReference]:
        columns: list[ResolvedReference] = []
        for reference in references:
            try:
                columns += find_columns(self._catalog, reference)
            except _UNFOUND:  # an apply was allowed to break it: that part cannot be read anyway
                continue
        return columns

    def _inputs(self, view: str, feature: str) -> list[ResolvedReference]:
        """Return what an on-demand feature is computed from."""
        spec = self._catalog.on_demand[view]
        try:
            inputs = find_inputs(self._catalog, spec)
        except _UNFOUND:
            return []
        return [inputs[column] for column in spec.expression(feature).columns if column in inputs]


def _of(grants: Iterable[Grant], role: str) -> list[Grant]:
    """Return the grants of a role; an admin has them all."""
    return [grant for grant in grants if grant.role in (role, "admin")]


def _lookers(grants: Iterable[Grant]) -> Iterable[Grant]:
    """Yield the grants that let one look at what they are for: a monitor reads numbers alone."""
    return (grant for grant in grants if grant.role != "monitor")


def _wide(grants: Iterable[Grant]) -> bool:
    """Return whether one of the grants is for the whole project."""
    return any(grant.scope == "project" for grant in grants)
