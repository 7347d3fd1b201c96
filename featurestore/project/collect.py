"""Collecting definitions from a folder of modules or from a list of objects, and checking them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from featurestore.definitions.catalog import AppliedView, BoundView, Catalog
from featurestore.definitions.definition_errors import collect_faults
from featurestore.definitions.definition_meta import DefinitionMeta
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.on_demand import OnDemandView
from featurestore.definitions.request import Request
from featurestore.definitions.serialization import Spec, data_digest
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FrameSource, Source
from featurestore.definitions.window_features import transform_of
from featurestore.errors import DefinitionError, DefinitionErrors
from featurestore.project.importer import import_folder
from featurestore.project.validate import Known, on_demand_problems, service_problems

_Item = TypeVar("_Item", Entity, Source, FeatureService, type[FeatureView], type[Request], type[OnDemandView])


@dataclass(frozen=True)
class Definitions:
    """All that is defined, by name, in the order in which it was found."""

    entities: dict[str, Entity] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    views: dict[str, type[FeatureView]] = field(default_factory=dict)
    services: dict[str, FeatureService] = field(default_factory=dict)
    requests: dict[str, type[Request]] = field(default_factory=dict)
    on_demand: dict[str, type[OnDemandView]] = field(default_factory=dict)

    @property
    def specs(self) -> dict[str, dict[str, Spec]]:
        """What the registry keeps of them, by kind and name."""
        return {
            "entity": {**self.entities},
            "source": {**self.sources},
            "view": {name: definition.__view__ for name, definition in self.views.items()},
            "request": {name: definition.__request__ for name, definition in self.requests.items()},
            "on_demand": {name: definition.__on_demand__ for name, definition in self.on_demand.items()},
            "service": {**self.services},
        }

    def merged(self, later: "Definitions") -> "Definitions":
        """Return these definitions, with later ones in the place of those of the same name."""
        return Definitions(
            {**self.entities, **later.entities},
            {**self.sources, **later.sources},
            {**self.views, **later.views},
            {**self.services, **later.services},
            {**self.requests, **later.requests},
            {**self.on_demand, **later.on_demand},
        )

    def bind(self, applied: AppliedView, folder: Path) -> BoundView:
        """Return a view as applied, with the source and the transform that its definition has.

        Args:
            applied: the view.
            folder: where definitions are looked for, for the message.

        Raises:
            DefinitionError: the definition is another than the one applied; or it is not here, and the view cannot do
                without it: a transform and a frame live in the definition alone.
        """
        view = applied.spec
        defined = self.views.get(view.name)
        if defined is None:
            if view.transform_digest or isinstance(view.source, FrameSource):
                what = "transform" if view.transform_digest else "frame"
                raise DefinitionError(
                    f"view {view.name!r} has a {what}, which lives in its definition, and that is not here. Run this where the "
                    f"definitions are ({folder}), or apply it in this process first."
                )
            if not view.windows:
                return BoundView(applied)
            transform = transform_of(view.source, view.inputs, view.features)
            if transform is None:
                raise DefinitionError(
                    f"view {view.name!r} aggregates expressions, which live in its definition, and that is not here. Run this "
                    f"where the definitions are ({folder}), or apply it in this process first."
                )
            return BoundView(applied, transform)
        if data_digest(defined.__view__) != data_digest(view):
            raise DefinitionError(
                f"view {view.name!r} is defined otherwise than it was applied. Look at the plan (featurestore plan), and apply it.",
                defined.__view__.place,
            )
        return BoundView(replace(applied, spec=replace(view, source=defined.__view__.source)), defined.__transform__)


def load_definitions(folder: Path, root: Path | None = None) -> Definitions:
    """Import the modules of a folder and return what they define.

    Every ``*.py`` in the folder and below is imported again, except those whose name begins with ``_``. The entity and the
    source that a view names count as defined too.

    Args:
        folder: the folder. It and the folder it is in can be imported from meanwhile.
        root: the project's folder, at which the places in messages start; by default the folder that ``folder`` is in.

    Raises:
        DefinitionErrors: modules cannot be imported, definitions are wrong, names clash, or services use what is not
            defined: all of it at once, each with its file and line.
        DefinitionError: the folder is not there.
    """
    if not folder.is_dir():
        raise DefinitionError(
            f"The definitions folder {str(folder)!r} is not there. Run `featurestore init` to make one, or name another as "
            "definitions= in featurestore.toml."
        )
    root = (root or folder.parent).resolve()
    with collect_faults() as collected:
        modules, failed = import_folder(folder)
    gathered = _Gathered(root)
    for module in modules:
        for value in vars(module).values():
            gathered.add(value)
    faults = [*collected, *failed, *gathered.faults]
    # What is in a module that failed is not missing as well.
    catalog = None if failed else Catalog()
    faults += _check(gathered.definitions, catalog, root, gathered.faulty_views)
    if faults:
        raise DefinitionErrors(_in_order(faults, root))
    return gathered.definitions


def collect_definitions(objects: Iterable[Any]) -> Definitions:
    """Return the definitions among objects; views bring their entity and source along, on-demand views their requests.

    What services and on-demand views use of views that are not among the objects is left for ``check`` to look up in the catalog.

    Raises:
        DefinitionErrors: an object is not a definition, names clash, or a service asks one of the views for what it does
                not have: all of it at once.

    Example:
        >>> collect_definitions([Entity("airport", origin=str)]).entities
        {'airport': Entity('airport', origin=String)}
    """
    gathered = _Gathered(None)
    for definition in objects:
        if not gathered.add(definition):
            gathered.faults.append(
                DefinitionError(
                    f"{definition!r} is not a definition. Give entities, sources, feature views, on-demand views and requests "
                    "(classes), and feature services."
                )
            )
    faults = [*gathered.faults, *_check(gathered.definitions, None, None)]
    if faults:
        raise DefinitionErrors(_in_order(faults, None))
    return gathered.definitions


def check(definitions: Definitions, catalog: Catalog) -> None:
    """Check definitions that are to be applied beside what is applied already.

    Raises:
        DefinitionErrors: a service or on-demand view uses what is neither defined nor applied, an on-demand view cannot be
            computed, or two kinds of definition share a name.
    """
    faults = _check(definitions, catalog, None)
    if faults:
        raise DefinitionErrors(_in_order(faults, None))


class _Gathered:
    """Definitions as they are found, and the faults that appear when they come together."""

    def __init__(self, root: Path | None) -> None:
        self.definitions = Definitions()
        self.faults: list[DefinitionError] = []
        self.faulty_views: set[str] = set()
        self._root = root

    def add(self, value: Any) -> bool:
        """Take a value, if it is a definition; return whether it is."""
        definitions = self.definitions
        if isinstance(value, Entity):
            self._put("entities", definitions.entities, value.name, value)
        elif isinstance(value, Source):
            self._put("sources", definitions.sources, value.name, value)
        elif isinstance(value, FeatureService):
            self._put("feature services", definitions.services, value.name, value)
        elif isinstance(value, type) and issubclass(value, (FeatureView, OnDemandView, Request)) and value not in _BASES:
            self._add_class(value)
        else:
            return False
        return True

    def _add_class(self, value: type[FeatureView] | type[OnDemandView] | type[Request]) -> None:
        definitions = self.definitions
        if issubclass(value, Request):
            if self._is_sound(value, "__request__", value.__request_name__):
                self._put("requests", definitions.requests, value.__request_name__, value)
        elif issubclass(value, OnDemandView):
            for request in value.__requests__:
                self._add_class(request)
            if self._is_sound(value, "__on_demand__", value.__view_name__):
                self._put("on-demand views", definitions.on_demand, value.__view_name__, value)
        elif self._is_sound(value, "__view__", value.__view_name__):
            view = value.__view__
            self._put("entities", definitions.entities, view.entity.name, view.entity)
            self._put("sources", definitions.sources, view.source.name, view.source)
            self._put("feature views", definitions.views, view.name, value)

    def _is_sound(self, value: type, spec: str, name: str) -> bool:
        """Return whether a class became a definition; of one with faults, the name is remembered."""
        if spec not in vars(value):
            self.faulty_views.add(name)
        return spec in vars(value)

    def _put(self, kinds: str, known: dict[str, _Item], name: str, item: _Item) -> None:
        other = known.setdefault(name, item)
        if not _same(other, item):
            first, second = _place(other), _place(item)
            where = f" The other is at {_relative(first, self._root)}." if first else ""
            problem = f"two different {kinds} are named {name!r}.{where} Rename one of them, or import the one where the other is."
            self.faults.append(DefinitionError(problem, second))


_BASES = (FeatureView, OnDemandView, Request)


def _same(one: Any, other: Any) -> bool:
    """Return whether two definitions of one name are one: the same object, or equal in all they say."""
    if one is other:
        return True
    if isinstance(one, type) and isinstance(other, type):
        # One class made twice, because its module was also imported from elsewhere.
        return _spec_of(one) == _spec_of(other) and _place(one) == _place(other) != ""
    if isinstance(one, Entity) and isinstance(other, Entity) and one.key_names != other.key_names:
        return False
    if isinstance(one, FrameSource) and isinstance(other, FrameSource) and one.frame is not other.frame:
        return False
    return bool(one == other)


def _check(
    definitions: Definitions, catalog: Catalog | None, root: Path | None, faulty_views: Iterable[str] = ()
) -> list[DefinitionError]:
    """Return the faults of what refers to other definitions; to those not defined here only where there is a catalog to ask."""
    unknown = None if catalog is None else set(faulty_views)
    known: Known = {
        **(catalog.referable if catalog else {}),
        **{definition.__view__.name: definition.__view__ for definition in definitions.views.values()},
        **{definition.__request__.name: definition.__request__ for definition in definitions.requests.values()},
        **{definition.__on_demand__.name: definition.__on_demand__ for definition in definitions.on_demand.values()},
    }
    faults = _shared_names(definitions, catalog, root)
    for on_demand in definitions.on_demand.values():
        view = on_demand.__on_demand__
        faults += [DefinitionError(problem, view.place) for problem in on_demand_problems(view, known, unknown=unknown)]
    for service in definitions.services.values():
        faults += [DefinitionError(problem, service.place) for problem in service_problems(service, known, unknown=unknown)]
    return faults


_REFERABLE = {"view": "a feature view", "request": "a request", "on_demand": "an on-demand view", "service": "a feature service"}
"""The kinds that references name, which therefore share one set of names, in words."""


def _shared_names(definitions: Definitions, catalog: Catalog | None, root: Path | None) -> list[DefinitionError]:
    """Return which definitions have the name of one of another kind, defined or applied."""
    defined = definitions.specs
    applied = {"service": {*catalog.services}, "view": {*catalog.views}, "request": {*catalog.requests},
               "on_demand": {*catalog.on_demand}} if catalog else {}  # fmt: skip
    faults = []
    kinds = list(_REFERABLE)
    for number, kind in enumerate(kinds):
        for name, spec in defined[kind].items():
            said = f"{kind.replace('_', '-')} {'view ' if kind == 'on_demand' else ''}{name!r} has the name of"
            for other in kinds:
                if other in kinds[:number] and name in defined[other]:
                    where = _relative(_place(defined[other][name]), root)
                    problem = f"{said} {_REFERABLE[other]}{f' ({where})' if where else ''}. Rename one of them."
                    faults.append(DefinitionError(problem, _place(spec)))
                elif other != kind and name in applied.get(other, ()) and name not in defined[other]:
                    problem = f"{said} {_REFERABLE[other]} that is applied. Rename one."
                    faults.append(DefinitionError(problem, _place(spec)))
    return faults


def _spec_of(item: Any) -> Any:
    """Return what the registry keeps of a definition."""
    if isinstance(item, DefinitionMeta):
        return getattr(item, item.__spec__)
    return item.__request__ if isinstance(item, type) and issubclass(item, Request) else item


def _place(item: Any) -> str:
    return str(_spec_of(item).place)


def _relative(place: str, root: Path | None) -> str:
    """Return a place as seen from the project's folder, if it is in there."""
    file, _, line = place.rpartition(":")
    if root is None or not file or not Path(file).is_relative_to(root):
        return place
    return f"{Path(file).relative_to(root).as_posix()}:{line}"


def _in_order(faults: Iterable[DefinitionError], root: Path | None) -> list[DefinitionError]:
    """Return faults by file and line, each once, with their places as seen from the project's folder."""
    distinct = {(fault.place, fault.problem): fault for fault in faults}

    def position(fault: DefinitionError) -> tuple[str, int]:
        file, _, line = fault.place.rpartition(":")
        return (file, int(line)) if line.isdecimal() else (fault.place, 0)

    return [DefinitionError(fault.problem, _relative(fault.place, root)) for fault in sorted(distinct.values(), key=position)]
