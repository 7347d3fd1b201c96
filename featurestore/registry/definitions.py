"""Definitions: what users wrote, gathered from a folder of modules or from a list of objects, and checked."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from featurestore.errors import DefinitionError, DefinitionErrors
from featurestore.registry.modules import import_folder
from featurestore.registry.services import service_problems
from featurestore.spec.catalog import AppliedView, Catalog
from featurestore.spec.entity import Entity
from featurestore.spec.faults import collect_faults
from featurestore.spec.serial import data_digest
from featurestore.spec.service import FeatureService
from featurestore.spec.source import FrameSource, Source
from featurestore.spec.view import FeatureView, FeatureViewMeta, Transform, ViewSpec

_Item = TypeVar("_Item", Entity, Source, FeatureService, type[FeatureView])


@dataclass(frozen=True)
class Definitions:
    """All that is defined, by name, in the order in which it was found."""

    entities: dict[str, Entity] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    views: dict[str, type[FeatureView]] = field(default_factory=dict)
    services: dict[str, FeatureService] = field(default_factory=dict)

    def merged(self, later: "Definitions") -> "Definitions":
        """Returns these definitions, with later ones in the place of those of the same name."""
        return Definitions(
            {**self.entities, **later.entities},
            {**self.sources, **later.sources},
            {**self.views, **later.views},
            {**self.services, **later.services},
        )

    def of(self, applied: AppliedView, folder: Path) -> tuple[AppliedView, Transform | None]:
        """Returns a view as applied, with the source and the transform that its definition has.

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
            return applied, None
        if data_digest(defined.__view__) != data_digest(view):
            raise DefinitionError(
                f"view {view.name!r} is defined otherwise than it was applied. Look at the plan (featurestore plan), and apply it.",
                defined.__view__.place,
            )
        return replace(applied, spec=replace(view, source=defined.__view__.source)), defined.__transform__


def load_definitions(folder: Path, root: Path | None = None) -> Definitions:
    """Imports the modules of a folder and returns what they define.

    Every ``*.py`` in the folder and below is imported anew, but for those whose name begins with ``_``. The entity and the
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
    """Returns the definitions among objects; views bring their entity and source along.

    What services use of views that are not among the objects is left for ``check`` to look up in the catalog.

    Raises:
        DefinitionErrors: an object is no definition, names clash, or a service asks one of the views for what it does not
            have: all of it at once.

    Example:
        >>> collect_definitions([Entity("airport", origin=str)]).entities
        {'airport': Entity('airport', origin=String)}
    """
    gathered = _Gathered(None)
    for each in objects:
        if not gathered.add(each):
            gathered.faults.append(
                DefinitionError(
                    f"{each!r} is no definition. Give entities, sources, feature views (the classes) and feature services."
                )
            )
    faults = [*gathered.faults, *_check(gathered.definitions, None, None)]
    if faults:
        raise DefinitionErrors(_in_order(faults, None))
    return gathered.definitions


def check(definitions: Definitions, catalog: Catalog) -> None:
    """Checks definitions that are to be applied beside what is applied already.

    Raises:
        DefinitionErrors: a service uses what is neither defined nor applied, or has the name of a view.
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
        """Takes a value, if it is a definition; tells whether it is."""
        found = self.definitions
        if isinstance(value, Entity):
            self._put("entities", found.entities, value.name, value)
        elif isinstance(value, Source):
            self._put("sources", found.sources, value.name, value)
        elif isinstance(value, FeatureService):
            self._put("feature services", found.services, value.name, value)
        elif isinstance(value, type) and issubclass(value, FeatureView) and value is not FeatureView:
            view: ViewSpec | None = vars(value).get("__view__")
            if view is None:
                self.faulty_views.add(value.__view_name__)
            else:
                self._put("entities", found.entities, view.entity.name, view.entity)
                self._put("sources", found.sources, view.source.name, view.source)
                self._put("feature views", found.views, view.name, value)
        else:
            return False
        return True

    def _put(self, kinds: str, known: dict[str, _Item], name: str, item: _Item) -> None:
        other = known.setdefault(name, item)
        if not _same(other, item):
            first, second = _place(other), _place(item)
            where = f" The other is at {_relative(first, self._root)}." if first else ""
            problem = f"two different {kinds} are named {name!r}.{where} Rename one of them, or import the one where the other is."
            self.faults.append(DefinitionError(problem, second))


def _same(one: Any, other: Any) -> bool:
    """Tells whether two definitions of one name are one: the same object, or equal in all they say."""
    if one is other:
        return True
    if isinstance(one, FeatureViewMeta) and isinstance(other, FeatureViewMeta):
        # One class made twice, because its module was also imported from elsewhere.
        return one.__view__ == other.__view__ and one.__view__.place == other.__view__.place != ""
    if isinstance(one, Entity) and isinstance(other, Entity) and one.key_names != other.key_names:
        return False
    if isinstance(one, FrameSource) and isinstance(other, FrameSource) and one.frame is not other.frame:
        return False
    return bool(one == other)


def _check(
    definitions: Definitions, catalog: Catalog | None, root: Path | None, faulty_views: Iterable[str] = ()
) -> list[DefinitionError]:
    """Returns the faults of services; those that use views not defined here only where there is a catalog to ask."""
    views = {name: view.__view__ for name, view in definitions.views.items()}
    applied = {name: view.spec for name, view in catalog.views.items()} if catalog else {}
    known = {**applied, **views}
    faults = []
    for name, service in definitions.services.items():
        unknown = None if catalog is None else set(faulty_views)
        problems = service_problems(service, known, unknown=unknown)
        if name in known:
            where = _relative(known[name].place, root)
            problems.append(f"service {name!r} has the name of a feature view{f' ({where})' if where else ''}. Rename one of them.")
        faults += [DefinitionError(problem, service.place) for problem in problems]
    for name, view in views.items():
        if catalog and name in catalog.services and name not in definitions.services:
            faults.append(
                DefinitionError(f"view {name!r} has the name of a feature service that is applied. Rename one.", view.place)
            )
    return faults


def _place(item: Any) -> str:
    return str(item.__view__.place if isinstance(item, FeatureViewMeta) else item.place)


def _relative(place: str, root: Path | None) -> str:
    """Returns a place as seen from the project's folder, if it is in there."""
    file, _, line = place.rpartition(":")
    if root is None or not file or not Path(file).is_relative_to(root):
        return place
    return f"{Path(file).relative_to(root).as_posix()}:{line}"


def _in_order(faults: Iterable[DefinitionError], root: Path | None) -> list[DefinitionError]:
    """Returns faults by file and line, each once, with their places as seen from the project's folder."""
    distinct = {(fault.place, fault.problem): fault for fault in faults}

    def position(fault: DefinitionError) -> tuple[str, int]:
        file, _, line = fault.place.rpartition(":")
        return (file, int(line)) if line.isdecimal() else (fault.place, 0)

    return [DefinitionError(fault.problem, _relative(fault.place, root)) for fault in sorted(distinct.values(), key=position)]
