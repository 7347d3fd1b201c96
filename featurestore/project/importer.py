"""Importing the modules of a definitions folder: by path, each once, under any name they import one another by."""

import importlib
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from threading import RLock
from types import CodeType, ModuleType, TracebackType

from featurestore.errors import DefinitionError, DefinitionErrors

_lock = RLock()
_loading: set[Path] = set()


def import_folder(folder: Path) -> tuple[list[ModuleType], list[DefinitionError]]:
    """Import every module of a folder afresh; return them, in the order of their files, and the faults of the others.

    Modules and packages whose name begins with ``_`` or ``.`` are imported only where others import them. A module may
    import its neighbours as parts of the folder (``from definitions.flights import Weather``), by their own name
    (``from flights import Weather``) or relatively (``from .flights import Weather``): it is one module under all three. A
    name that an installed library has means the library: its neighbour is imported as a part of the folder, or relatively.
    Other modules may be imported from the folder that the folder is in.

    Raises:
        DefinitionError: one of the modules loads the definitions of the folder itself.
    """
    folder = folder.resolve()
    with _lock:
        if folder in _loading:
            raise DefinitionError(
                "a module of the definitions loads the definitions itself. Put what is to happen only when the file is run "
                'under `if __name__ == "__main__":`.'
            )
        _loading.add(folder)
        try:
            return _import_all(folder)
        finally:
            _loading.discard(folder)


def _import_all(folder: Path) -> tuple[list[ModuleType], list[DefinitionError]]:
    finder = _FolderFinder(folder)
    modules: list[ModuleType] = []
    faults: dict[str, DefinitionError] = {}
    with _importable(finder):
        for file in _module_files(folder):
            linecache.checkcache(str(file))
            try:
                modules.append(importlib.import_module(finder.own_name(_dotted(file, folder))))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a module of definitions may raise whatever it likes
                # Who imports a module that fails fails likewise, and says the same.
                faults |= {str(fault): fault for fault in _faults(error, file, folder, finder.package)}
    return modules, list(faults.values())


def _module_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.py")):
        *packages, name = file.relative_to(folder).parts
        hidden = any(part.startswith(("_", ".")) for part in packages) or name.startswith(".")
        if not hidden and (name == "__init__.py" or not name.startswith("_")):
            yield file


def _dotted(file: Path, folder: Path) -> str:
    """Return a module's name inside the folder; that of the folder itself is empty."""
    parts = file.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _FolderFinder(MetaPathFinder):
    """Find a folder's modules, under a name of their own and under those by which they import one another.

    Their own name begins with a package name made from the folder's path, so that two projects in one process, or
    another module that happens to have the same name, do not meet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = f"definitions_{sha256(str(folder).encode()).hexdigest()[:8]}"
        self.aliases: set[str] = set()
        packages = (path.name for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py")))
        taken = {*sys.stdlib_module_names, "featurestore"}
        tops = {path.stem for path in folder.glob("*.py")}.union(packages) - taken
        # While the folder is imported, another thread may import a library for the first time: it must not get a neighbour.
        self._tops = {name for name in tops if not _is_library(name, folder)}
        self._own_tops = {self.package, folder.name} - taken

    def own_name(self, dotted: str) -> str:
        return f"{self.package}.{dotted}" if dotted else self.package

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        dotted = self.inside(fullname)
        if dotted is None:
            return None
        file, is_package = self._file(dotted)
        if file is None and not is_package:
            return None
        own_name = self.own_name(dotted)
        if fullname != own_name:
            self.aliases.add(fullname)
            return ModuleSpec(fullname, _AliasLoader(own_name), is_package=is_package)
        locations = [str(self.folder.joinpath(*dotted.split(".")))] if is_package else None
        if file is not None:
            loader = _FreshLoader(fullname, str(file))
            return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=locations)
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = locations
        return spec

    def inside(self, fullname: str) -> str | None:
        """Return what a module is called inside the folder; None for a module that is not of the folder."""
        top, _, rest = fullname.partition(".")
        if top in self._own_tops:
            return rest
        return fullname if top in self._tops else None

    def _file(self, dotted: str) -> tuple[Path | None, bool]:
        """Return the file of a module, and whether it is a package; a package need not have a file."""
        path = self.folder.joinpath(*dotted.split("."))
        if (path / "__init__.py").is_file():
            return path / "__init__.py", True
        if dotted and path.with_name(f"{path.name}.py").is_file():
            return path.with_name(f"{path.name}.py"), False
        return None, path.is_dir()


def _is_library(name: str, folder: Path) -> bool:
    """Return whether a name is that of a module which is installed, outside of the folder."""
    spec = PathFinder.find_spec(name)
    if spec is None:
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return not any(Path(place).resolve().is_relative_to(folder) for place in places if place)


class _FreshLoader(SourceFileLoader):
    """Compile a module from its text: cached bytecode knows a file's time to the second only, and misses quick edits."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _AliasLoader(Loader):
    """Give a module that has a name of its own under another name."""

    def __init__(self, own_name: str) -> None:
        self._own_name = own_name
        self._own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._own_name)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just told the module that it is the alias.
        module.__spec__ = self._own_spec


@contextmanager
def _importable(finder: _FolderFinder) -> Iterator[None]:
    """Make a folder's modules importable by all their names, and put the interpreter back as it was but for their own."""
    for name in [name for name in sys.modules if name.partition(".")[0] == finder.package]:
        del sys.modules[name]
    # What the user imported from the folder by other means is not to be mixed with what is imported here.
    foreign = {name: module for name, module in sys.modules.items() if _is_inside(name, module, finder)}
    for name in foreign:
        del sys.modules[name]
    parent = str(finder.folder.parent)
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, parent)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if parent in sys.path:
            sys.path.remove(parent)
        for name in finder.aliases:
            sys.modules.pop(name, None)
        sys.modules.update(foreign)


def _is_inside(name: str, module: ModuleType, finder: _FolderFinder) -> bool:
    if finder.inside(name) is None:
        return False
    if name.partition(".")[0] == finder.folder.name:
        return True
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(Path(place).is_relative_to(finder.folder) for place in places if place)


def _faults(error: BaseException, file: Path, folder: Path, own_package: str) -> list[DefinitionError]:
    """Return what a module raised as faults of definitions, at the innermost line that is in the folder."""
    place = _innermost(error.__traceback__, folder) or f"{file}:1"
    if isinstance(error, DefinitionErrors):
        return list(error.faults)
    if isinstance(error, DefinitionError):
        return [error if error.place else DefinitionError(error.problem, place)]
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(folder):
        return [DefinitionError(f"{type(error).__name__}: {error.msg}", f"{error.filename}:{error.lineno or 1}")]
    said = str(error).replace(own_package, folder.name)
    return [DefinitionError(f"the module cannot be imported: {type(error).__name__}: {said}", place)]


def _innermost(trace: TracebackType | None, folder: Path) -> str:
    place = ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if Path(name).is_relative_to(folder):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
