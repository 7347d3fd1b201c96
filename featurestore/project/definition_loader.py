"""The definition loader: definitions of the project's folder, and those that this process applied itself."""

from collections.abc import Iterable
from pathlib import Path
from threading import RLock
from typing import Any

from featurestore.definitions.catalog import AppliedView, BoundView, Catalog
from featurestore.errors import DefinitionError, UnknownAggregateError
from featurestore.forking import notify_of_forks
from featurestore.project.collect import Definitions, collect_definitions, load_definitions
from featurestore.registry.catalog_cache import CatalogSource


class DefinitionLoader:
    """Know where a view's transform is, which the registry does not keep. Thread-safe.

    Only what was applied counts, and the folder where nothing was: a plan that is looked at changes nothing here.

    Args:
        folder: the project's definitions.
        root: the project's folder.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._root = root
        self._loaded: Definitions | None = None
        self._given = Definitions()
        self.after_fork()
        notify_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked.after_fork``."""
        self._lock = RLock()

    def load(self, objects: Iterable[Any] | None) -> Definitions:
        """Return the definitions among some objects; for None, those of the folder, imported again.

        Raises:
            DefinitionErrors: they are wrong.
        """
        if objects is not None:
            return collect_definitions(objects)
        with self._lock:  # it imports modules
            return load_definitions(self._folder, self._root)

    def take(self, definitions: Definitions, *, partial: bool) -> None:
        """Receive what was applied: the whole folder, or objects by themselves."""
        with self._lock:
            if partial:
                self._given = self._given.merged(definitions)
            else:
                self._loaded, self._given = definitions, Definitions()

    def bind(self, applied: AppliedView) -> BoundView:
        """Return a view with its definition's source and transform. Raises as ``Definitions.bind`` and ``load``."""
        with self._lock:
            return self._bind(applied)

    def _bind(self, applied: AppliedView) -> BoundView:
        if self._loaded is None and applied.spec.name not in self._given.views and self._folder.is_dir():
            self._loaded = self.load(None)
        try:
            return self._known().bind(applied, self._folder)
        except DefinitionError:
            if self._loaded is None or not self._folder.is_dir():
                raise
        self._loaded = self.load(None)  # another process may have applied what is in the folder by now
        return self._known().bind(applied, self._folder)

    def _known(self) -> Definitions:
        return self._given if self._loaded is None else self._loaded.merged(self._given)

    def import_folder(self) -> bool:
        """Import the folder's modules, for what they define besides, such as aggregates; return whether there is a folder.

        Raises:
            DefinitionErrors: they are wrong.
        """
        if self._folder.is_dir():
            self.load(None)
            return True
        return False


class KnownCatalog:
    """A registry's catalog; where it needs aggregates that are defined in the project's folder, they are imported.

    Args:
        registry: the registry.
        at_hand: the loader of the definitions in the folder.
    """

    def __init__(self, registry: CatalogSource, at_hand: DefinitionLoader) -> None:
        self._registry = registry
        self._at_hand = at_hand

    def load(self) -> Catalog:
        """Return the catalog.

        Raises:
            UnknownAggregateError: an aggregate that it needs is defined nowhere.
            DefinitionErrors: the definitions are wrong.
        """
        try:
            return self._registry.load()
        except UnknownAggregateError:
            if not self._at_hand.import_folder():
                raise
            return self._registry.load()

    def state(self) -> tuple[int, str]:
        """Return the catalog's revision and its stamp, cheaply."""
        return self._registry.state()
