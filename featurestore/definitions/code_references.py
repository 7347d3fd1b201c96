"""Code references: the functions and values that a transform uses, and which of them belong to the project."""

import ast
import dis
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_ROOTS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF"}
_STEPS = {"LOAD_ATTR", "LOAD_METHOD"}
_BETWEEN = {"CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL"}
_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
_SELF = Path(__file__).resolve().parent.parent


def surroundings(function: FunctionType) -> dict[str, Any]:
    """Return what a function's names stand for, but for its own variables and what is built in."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    filled = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    return function.__globals__ | filled


def paths_of(function: FunctionType) -> list[tuple[str, ...]]:
    """Return the names that a function and those inside it load from around it, each with the attributes asked of it, in order.

    Example:
        >>> paths_of(paths_of)[-1]
        ('walked',)
    """
    free = set(function.__code__.co_freevars)
    paths: set[tuple[str, ...]] = set()
    for code in walked(function.__code__):
        path: tuple[str, ...] = ()
        for instruction in dis.get_instructions(code):
            if path and instruction.opname in _STEPS:
                path += (instruction.argval,)
            elif instruction.opname in _ROOTS:
                paths.add(path)
                is_own = "DEREF" in instruction.opname and instruction.argval not in free
                path = () if is_own else (instruction.argval,)
            elif instruction.opname not in _BETWEEN:
                paths.add(path)
                path = ()
        paths.add(path)
    return sorted(paths - {()})


def walked(code: CodeType) -> Iterator[CodeType]:
    """Return a function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from walked(constant)


def imports_inside(node: ast.AST | None) -> Iterator[tuple[int, str]]:
    """Return the modules that are imported inside a function: how far above its package, and the name."""
    for inner in () if node is None else ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from ((0, alias.name) for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            yield inner.level, inner.module or ""


@dataclass(frozen=True)
class Project:
    """The code that belongs together with a transform: what changes with it, and not with a library.

    Args:
        top: the package or module that the transform is in.
        folder: the project's folder.
    """

    top: str
    folder: Path

    @classmethod
    def of(cls, function: FunctionType) -> "Project":
        """Return the project that a function is in: that of its ``featurestore.toml``, or the folder its package is in."""
        module = function.__module__ or ""  # none where it was made by exec()
        top = module.partition(".")[0]
        file = Path(function.__code__.co_filename)
        if not file.is_file():  # it was typed into a console, or a notebook
            return cls(top, _project_of(Path.cwd()))
        depth = module.count(".") + (file.name == "__init__.py")
        parents = file.resolve().parents
        return cls(top, _project_of(parents[min(depth, len(parents) - 1)]))

    def has_function(self, function: FunctionType) -> bool:
        """Return whether a function's code was written in the project, whatever module it says to be of."""
        if function.__globals__.get("__name__", "").partition(".")[0] == self.top:
            return True
        return self._has_file(function.__code__.co_filename)

    def has_module(self, module: ModuleType) -> bool:
        """Return whether a module is one of the project."""
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
        return module.__name__.partition(".")[0] == self.top or any(map(self._has_file, places))

    def has_class(self, kind: type) -> bool:
        """Return whether a class was written in the project."""
        if (kind.__module__ or "").partition(".")[0] == self.top:
            return True
        module = sys.modules.get(kind.__module__)
        return module is not None and module.__name__ != "builtins" and self.has_module(module)

    def has_name(self, level: int, name: str) -> bool:
        """Return whether a name that is imported is a module of the project; nothing is imported to find out."""
        top = name.partition(".")[0]
        if level or top == self.top:
            return True
        if top in sys.stdlib_module_names:
            return False
        module = sys.modules.get(top)
        if module is not None:
            return self.has_module(module)
        spec = PathFinder.find_spec(top)
        places: Iterable[str | None] = () if spec is None else (spec.origin, *(spec.submodule_search_locations or ()))
        return any(place is not None and self._has_file(place) for place in places)

    def _has_file(self, file: str) -> bool:
        return bool(file) and _is_within(file, self.folder)


@lru_cache(maxsize=4096)
def _is_within(file: str, folder: Path) -> bool:
    path = Path(file).resolve()
    if file.startswith("<") or not path.is_relative_to(folder) or path.is_relative_to(_SELF) or path.is_relative_to(_LIBRARY):
        return False
    # NOTE: an environment often lies inside of the project's folder.
    return _INSTALLED.isdisjoint(path.relative_to(folder).parts)


@lru_cache(maxsize=256)
def _project_of(folder: Path) -> Path:
    return next((parent for parent in (folder, *folder.parents) if (parent / "featurestore.toml").is_file()), folder)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it is empty where the name is bound later
    except ValueError:
        return False
    return True
