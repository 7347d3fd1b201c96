"""The plan of an apply: how definitions differ from the catalog, and what must be recomputed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.reference import ViewReference
from featurestore.definitions.request import RequestSpec
from featurestore.definitions.serialization import KINDS, Spec, data_digest, to_json
from featurestore.definitions.service import FeatureService
from featurestore.project.collect import Definitions, check
from featurestore.project.validate import Known, on_demand_problems, service_problems
from featurestore.registry.diff_details import details
from featurestore.registry.specs import Put, applied_specs

Action = Literal["add", "change", "remove"]

_SYMBOLS: dict[Action, str] = {"add": "+", "change": "~", "remove": "-"}


@dataclass(frozen=True)
class Change:
    """What becomes of one definition.

    Args:
        action: whether it is added, changed or removed.
        kind: ``entity``, ``source``, ``view``, ``request``, ``on_demand`` or ``service``.
        name: its name.
        details: what changed, a line each.
        recompute: whether a view's stored values have to be recomputed.
        rows: how many rows of history that is, where it is known.
        version: the version it will have.
        data_version: of a view, the version of its stored values.
        spec: the new definition; None for one that is removed.
        serves: of a view, the version that readers are given until the new one is materialized; None where they are given
            the new one at once.
    """

    action: Action
    kind: str
    name: str
    details: tuple[str, ...] = ()
    recompute: bool = False
    rows: int | None = None
    version: int = 1
    data_version: int | None = None
    spec: Spec | None = None
    serves: int | None = None

    def __str__(self) -> str:
        lines = [f"{_SYMBOLS[self.action]} {self.kind} {self.name}", *(f"    {line}" for line in self.details)]
        if self.recompute:
            lines.append(f"    {self.recomputation}")
        return "\n".join(lines)

    @property
    def recomputation(self) -> str:
        """What is to be recomputed, and what readers are given until then, in words."""
        until = "" if self.serves is None else f"; version {self.serves} goes on being served until then"
        return f"to recompute: {_rows(self.rows)}{until}"

    def to_dict(self) -> dict[str, Any]:
        """Return the change in plain JSON values, without the definition itself."""
        return {
            "action": self.action, "kind": self.kind, "name": self.name, "version": self.version,
            "data_version": self.data_version, "details": list(self.details), "recompute": self.recompute, "rows": self.rows,
            "serves": self.serves,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What an apply would do. Print it.

    Args:
        base_revision: the revision of the registry that the plan starts from.
        changes: what changes: entities, sources, views, requests, on-demand views, services, each kind by name.
        unchanged: how many definitions are as they are applied.
        broken: a line for each thing that a service or on-demand view which remains would lose.
        warnings: what is worth knowing beside that.
        unprotected: a line for each feature that was personal information, and would be given to all readers of its view.
    """

    base_revision: int
    changes: tuple[Change, ...] = ()
    unchanged: int = 0
    broken: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unprotected: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes

    @property
    def summary(self) -> str:
        """The plan in one line."""
        if self.is_empty:
            count = "1 definition is" if self.unchanged == 1 else f"{self.unchanged} definitions are"
            return f"Nothing to do: {count} as applied (revision {self.base_revision})."
        counts = [sum(change.action == action for change in self.changes) for action in _SYMBOLS]
        line = "{} to add, {} to change, {} to remove".format(*counts)
        again = [change for change in self.changes if change.recompute]
        if again:
            rows = None if any(change.rows is None for change in again) else sum(change.rows or 0 for change in again)
            line += f"; {len(again)} view{'s' if len(again) > 1 else ''} to recompute ({_rows(rows)})"
        return line

    def puts(self) -> tuple[Put, ...]:
        """Return the versions to write, for ``SpecRegistry.commit``."""
        return tuple(
            Put(change.spec, change.version, change.data_version, change.serves is not None)
            for change in self.changes
            if change.spec is not None
        )

    def deletes(self) -> tuple[tuple[str, str], ...]:
        """Return the (kind, name) of what is to be removed, for ``SpecRegistry.commit``."""
        return tuple((change.kind, change.name) for change in self.changes if change.action == "remove")

    def to_dict(self) -> dict[str, Any]:
        """Return the plan in plain JSON values."""
        opened = {"unprotected": list(self.unprotected)} if self.unprotected else {}
        return opened | {
            "base_revision": self.base_revision, "changes": [change.to_dict() for change in self.changes],
            "unchanged": self.unchanged, "broken": list(self.broken), "warnings": list(self.warnings), "summary": self.summary,
        }  # fmt: skip

    def __str__(self) -> str:
        broken = [f"! breaks: {line}" for line in self.broken]
        warnings = [f"! {line}" for line in self.warnings]
        opened = [f"! unprotects: {line}" for line in self.unprotected]
        return "\n".join([*(str(change) for change in self.changes), *broken, *opened, *warnings, self.summary])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def diff(
    catalog: Catalog,
    definitions: Definitions,
    *,
    partial: bool,
    rows: Callable[[AppliedView], int | None],
    retained: Callable[[str], Sequence[AppliedView]] = lambda view: (),
    place: Callable[[ViewSpec, int], int] = lambda view, number: number,
) -> Plan:
    """Return what it takes to bring what is applied to what is defined. Pure, but for what ``rows`` and ``retained`` do.

    Args:
        catalog: what is applied.
        definitions: what is defined.
        partial: whether the definitions are some of the project's, so that what is not among them stays; else it goes.
        rows: tells how many rows the history of a view as it was applied holds; None where that is not known.
        retained: tells the earlier data versions of a view that are kept, the newest first, each as it was last.
        place: tells which data version a view is to have whose rows are to be made, given the one that comes next: a registry
            that was lost knows nothing of the histories that are there.

    Raises:
        DefinitionErrors: a service among the definitions uses what is neither defined nor, in a partial apply, applied.

    Example:
        >>> from featurestore.project.collect import collect_definitions
        >>> from featurestore.definitions.entity import Entity
        >>> airport = Entity("airport", origin=str)
        >>> print(diff(Catalog(), collect_definitions([airport]), partial=True, rows=lambda view: None))
        + entity airport
        1 to add, 0 to change, 0 to remove
    """
    check(definitions, catalog if partial else Catalog())
    applied, defined = applied_specs(catalog), definitions.specs
    changes: list[Change] = []
    unchanged = 0
    for kind in KINDS:
        gone = [] if partial else [name for name in applied[kind] if name not in defined[kind]]
        for name in sorted([*defined[kind], *gone]):
            change = _change(catalog, kind, name, applied[kind].get(name), defined[kind].get(name), rows, retained, place)
            if change is None:
                unchanged += 1
            else:
                changes.append(change)
    remaining = {kind: {**(applied[kind] if partial else {}), **defined[kind]} for kind in KINDS}
    return Plan(
        catalog.revision, tuple(changes), unchanged, tuple(_broken(applied, remaining)), tuple(_left_behind(remaining, changes))
    )


def _change(
    catalog: Catalog,
    kind: str,
    name: str,
    old: Spec | None,
    new: Spec | None,
    rows: Callable[[AppliedView], int | None],
    retained: Callable[[str], Sequence[AppliedView]],
    place: Callable[[ViewSpec, int], int],
) -> Change | None:
    """Return what becomes of a definition; None where it stays as it is."""
    version = catalog.versions.get((kind, name), 0) + 1
    if new is None:
        return Change("remove", kind, name, version=version)
    if old is None:
        number = place(new, version) if isinstance(new, ViewSpec) else None
        return Change("add", kind, name, version=version, data_version=number, spec=new)
    if to_json(old) == to_json(new):
        return None
    lines = details(old, new)
    if not (isinstance(old, ViewSpec) and isinstance(new, ViewSpec)):
        return Change("change", kind, name, lines, version=version, spec=new)
    return _changed_view(catalog, old, new, lines, rows, retained, place)


def _changed_view(
    catalog: Catalog,
    old: ViewSpec,
    new: ViewSpec,
    lines: tuple[str, ...],
    rows: Callable[[AppliedView], int | None],
    retained: Callable[[str], Sequence[AppliedView]],
    place: Callable[[ViewSpec, int], int],
) -> Change:
    """Return what becomes of a view that is defined otherwise: of its rows, and of what readers are given."""
    name, version = new.name, catalog.versions["view", new.name] + 1
    applied, lingers = catalog.views[name], catalog.previous_versions.get(name)
    changed = Change("change", "view", name, lines, version=version, data_version=applied.data_version, spec=new)
    if lingers is not None:
        changed = replace(changed, serves=lingers.version)
    if data_digest(old) == data_digest(new):
        if old.ttl is not None and (new.ttl is None or new.ttl > old.ttl):
            lines = (*lines, "what expired online returns with materialize --rebuild-online (store.admin.rebuild_online())")
        return replace(changed, details=lines)
    added = appended(old, new)
    if added:
        lines = (*lines, f"the rows there are have null for {' and '.join(added)}; to fill it: materialize --start (start=)")
        return replace(changed, details=lines)
    served = catalog.served[name]
    digest = data_digest(new)
    for earlier in retained(name):
        if data_digest(earlier.spec) == digest and earlier.data_version != applied.data_version and rows(earlier):
            lines = (*lines, f"the rows of version {earlier.version} are there still, and are taken up again")
            back = replace(changed, details=lines, data_version=earlier.data_version)
            return replace(back, serves=None if earlier.data_version == served.data_version else _kept(served, rows))
    count = rows(applied)
    return replace(changed, recompute=True, rows=count, data_version=place(new, version), serves=_kept(served, rows))


def appended(old: ViewSpec, new: ViewSpec) -> tuple[str, ...]:
    """Return the features that a view has got, where rows stored before need only lack them; empty where they need more.

    These are nullable features after all those that were there, of a view that is otherwise stored as it was.
    """
    before = len(old.features)
    more = new.features[before:]
    if old.windows or new.windows or not more or not all(feature.nullable for feature in more):
        return ()
    if data_digest(replace(new, features=new.features[:before])) != data_digest(old):
        return ()
    return tuple(feature.name for feature in more)


def _kept(served: AppliedView, rows: Callable[[AppliedView], int | None]) -> int | None:
    """Return the version that readers keep for the time being; None where it has nothing to give."""
    return served.version if rows(served) != 0 else None


def _broken(applied: dict[str, dict[str, Spec]], remaining: dict[str, dict[str, Spec]]) -> Iterator[str]:
    """Yield what services and on-demand views that remain as they are would lose, except what they lack already."""
    before, after = _referable(applied), _referable(remaining)
    for name, view in remaining["on_demand"].items():
        if isinstance(view, OnDemandSpec) and name in applied["on_demand"]:
            lacking = on_demand_problems(view, before)
            yield from (problem for problem in on_demand_problems(view, after) if problem not in lacking)
    for name, service in remaining["service"].items():
        if isinstance(service, FeatureService) and name in applied["service"]:
            known = service_problems(service, before)
            yield from (problem for problem in service_problems(service, after) if problem not in known)
            if service == applied["service"][name]:
                yield from _shrunk(service, before, after)


def _shrunk(service: FeatureService, before: Known, after: Known) -> Iterator[str]:
    """Return which features a service would lose without a word that uses views as a whole."""
    whole = dict.fromkeys(reference.view for reference in service.references if isinstance(reference, ViewReference))
    for view in whole:
        if view in before and view in after:
            for feature in before[view].feature_names:
                if after[view].feature(feature) is None:
                    yield f"service {service.name!r} would lose {view}.{feature}, which it uses with all of {view!r}."


def _referable(specs: dict[str, dict[str, Spec]]) -> Known:
    kinds = (ViewSpec, RequestSpec, OnDemandSpec)
    return {name: spec for named in specs.values() for name, spec in named.items() if isinstance(spec, kinds)}


def _views(specs: dict[str, dict[str, Spec]]) -> dict[str, ViewSpec]:
    return {name: view for name, view in specs["view"].items() if isinstance(view, ViewSpec)}


def _left_behind(remaining: dict[str, dict[str, Spec]], changes: list[Change]) -> Iterator[str]:
    """Return of views which a partial apply leaves with an entity or source that it changes."""
    changed = {(change.kind, change.name) for change in changes}
    for name, view in _views(remaining).items():
        for kind, part in (("entity", view.entity), ("source", view.source)):
            if (kind, part.name) in changed and ("view", name) not in changed:
                yield f"view {name!r} keeps the {kind} {part.name!r} as it was, for it is not among what is applied. Apply it too."


def _rows(count: int | None) -> str:
    return "rows not known" if count is None else "1 row" if count == 1 else f"{count:,} rows"
