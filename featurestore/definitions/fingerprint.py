"""The fingerprint of a transform: a digest that changes when the values it computes may change.

The digest does not depend on comments, docstrings, layout, or the version of Python. It takes in what the transform uses
from around it: the project's functions, classes and objects, by whatever name it reaches them, and plain values such as a
threshold. A library is known by name alone, and so is what no text stands for, such as a table it joins (``meaning_of``).
"""

import ast
import builtins
import copy
import hashlib
import linecache
import logging
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache, partial
from inspect import getattr_static
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import polars as pl

from featurestore.definitions.code_references import Project, imports_inside, paths_of, surroundings, walked

Transform = Callable[[pl.LazyFrame], pl.LazyFrame]
"""What turns a source's rows into a view's."""

_PLAIN = (bool, int, float, str, bytes, type(None))
_TOLD = (*_PLAIN, complex, date, datetime, time, timedelta, Decimal, UUID, ZoneInfo, range, type(...))
_INNER = (
    (staticmethod, "__func__"), (classmethod, "__func__"), (MethodType, "__func__"), (property, "fget"), (cached_property, "func"),
    (partial, "func"),
)  # fmt: skip
_NOT_THERE = "not there when the view is defined"
_DESCRIPTORS = {"member_descriptor", "getset_descriptor", "_tuplegetter"}


def source_text(function: FunctionType) -> str:
    """Return a function's source, or nothing where there is none, as for one typed into a bare console."""
    text, node = _source(function)
    if node is None:
        return ""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return textwrap.dedent("".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno]))


def meaning_digest(function: FunctionType) -> str:
    """Return a digest of what a function means.

    Example:
        >>> meaning_digest(source_text) == meaning_digest(meaning_digest)
        False
    """
    return meaning_of(function)[0]


def meaning_of(function: FunctionType, own: type | None = None) -> tuple[str, tuple[str, ...]]:
    """Return a digest of what a function means, and what it uses that the digest cannot take in: a change of it is not seen.

    Args:
        function: the function.
        own: the class that it is defined in, which has its name only once it is made.

    Example:
        >>> meaning_of(source_text)[1]
        ()
    """
    meaning = _Meaning(function, {} if own is None or "<locals>" in own.__qualname__ else {own.__name__: own})
    digest = hashlib.sha256("\n".join(meaning.lines(function)).encode()).hexdigest()
    return digest, tuple(sorted(f"{name} ({what})" for name, what in meaning.opaque.items()))


def _source(function: FunctionType) -> tuple[str, ast.FunctionDef | ast.Lambda | None]:
    """Return the text of a function's file, and its node there; None if it cannot be determined."""
    code = function.__code__
    # NOTE: not inspect.getsource, whose piece is no statement where a line of a text in it begins at the margin.
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    functions = _functions(text).get((code.co_name, code.co_firstlineno), [])
    return text, functions[0] if len(functions) == 1 else None


@lru_cache(maxsize=16)
def _functions(text: str) -> dict[tuple[str, int], list[ast.FunctionDef | ast.Lambda]]:
    """Return the functions in a module's text, by their names and each line that may be called their first.

    It is kept, for a module may hold hundreds of transforms.
    """
    functions: dict[tuple[str, int], list[ast.FunctionDef | ast.Lambda]] = {}
    try:
        tree = ast.parse(text)
    except SyntaxError:  # the file was changed since, and is half-way
        return functions
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for line in {node.lineno, *(decorator.lineno for decorator in node.decorator_list)}:
                functions.setdefault((node.name, line), []).append(node)
        elif isinstance(node, ast.Lambda):
            functions.setdefault(("<lambda>", node.lineno), []).append(node)
    return functions


def _code_meaning(code: CodeType) -> str:
    """Return what compiled code does, without the addresses and lines that its own text would name."""
    constants = [_code_meaning(constant) if isinstance(constant, CodeType) else repr(constant) for constant in code.co_consts]
    return repr((code.co_code, constants, code.co_names))


class _Meaning:
    """What a transform means, line by line.

    NOTE: a registry is shared, and what it holds was made by earlier versions: what a digest takes in for something that
    it has always taken in stays the same text at the same place. ``_beyond`` has what came later.
    """

    def __init__(self, transform: FunctionType, own: dict[str, Any]) -> None:
        self._own = own
        self._globals = transform.__globals__
        self.opaque: dict[str, str] = {}
        self._project = Project.of(transform)
        self._seen: set[Any] = set()

    def lines(self, function: FunctionType) -> Iterator[str]:
        """Return what a function means, and what it uses."""
        code = function.__code__
        if code in self._seen:
            return
        self._seen.add(code)
        _, node = _source(function)
        # NOTE: ast.dump differs between versions of Python; the text that a tree stands for does not.
        yield ast.unparse(_bare(copy.deepcopy(node))) if node is not None else _code_meaning(code)
        for name, value in _used(function):
            if isinstance(value, FunctionType) and _is_users(value, function):
                yield from self.lines(value)
            elif _is_plain(value):
                yield f"{name} = {value!r}"
        yield from self._beyond(function, node)

    def _beyond(self, function: FunctionType, node: ast.FunctionDef | ast.Lambda | None) -> Iterator[str]:
        """Return what the names say that a function reaches otherwise than as a plain value or a function of its package."""
        if not self._project.has_function(function):
            # A library's wrapper: what it wraps counts, and the library itself does not.
            for enclosed in _held(function):
                yield from self._function(enclosed)
            return
        # The name of its own class may be that of a former one still, as in a notebook.
        around = surroundings(function) | (self._own if function.__globals__ is self._globals else {})
        for path in paths_of(function):
            if path[0] not in around:
                if not hasattr(builtins, path[0]):
                    self.opaque[path[0]] = _NOT_THERE
            elif not _is_plain(around[path[0]]):
                yield from self._reached(path, around[path[0]])
        yield from self._each(function.__name__, _defaults(function, node))
        for enclosed in _held(function):
            yield from self._function(enclosed)
        for level, name in imports_inside(node):
            if self._project.has_name(level, name):
                self.opaque["." * level + name] = "a module of yours that is imported inside a function"

    def _reached(self, path: tuple[str, ...], value: Any) -> Iterator[str]:
        """Return what stands at the end of a chain of attributes, as far as it goes through modules, classes and objects."""
        name = path[0]
        for number, step in enumerate(path[1:], 2):
            if isinstance(value, ModuleType):
                if not self._project.has_module(value):
                    return
            elif not self._has_attributes(value) or not _is_own(value, step):
                break
            try:
                value = getattr(value, step)
            except AttributeError:  # it is not there yet, or never will be
                self.opaque[".".join(path[:number])] = _NOT_THERE
                return
            name = ".".join(path[:number])
        yield from self._value(name, value)

    def _has_attributes(self, value: Any) -> bool:
        if isinstance(value, Enum):
            return False
        return isinstance(value, SimpleNamespace) or self._project.has_class(value if isinstance(value, type) else type(value))

    def _value(self, name: str, value: Any) -> Iterator[str]:
        """Return what a value of any kind means, or note that nothing tells it."""
        inner = next((getattr(value, where) for kind, where in _INNER if isinstance(value, kind)), None)
        if inner is None and not isinstance(value, type) and not self._has_attributes(value):
            wrapped = getattr_static(value, "__wrapped__", None)  # such as functools.cache makes
            inner = wrapped if isinstance(wrapped, FunctionType) and not isinstance(value, FunctionType) else None
        if inner is not None:
            yield from self._value(name, inner)
        if isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, MethodType):
            yield from self._value(f"{name}.__self__", value.__self__)
        elif isinstance(value, partial):
            yield f"{name} = partial"
            yield from self._each(name, [*enumerate(value.args), *sorted(value.keywords.items())])
        elif isinstance(value, type):
            yield from self._class(name, value)
        elif isinstance(value, ModuleType):
            if self._project.has_module(value):
                self.opaque[name] = "a module of yours as a whole"
        elif inner is None:
            yield from self._data(name, value)

    def _data(self, name: str, value: Any) -> Iterator[str]:
        if isinstance(value, Enum):
            yield f"{name} = {type(value).__name__}.{value.name}"
            yield from self._value(f"{name}.value", value.value)
        elif (text := _text(value)) is not None:
            yield f"{name} = {text}"
        elif isinstance(value, (tuple, list)):
            yield f"{name} = {len(value)}"
            yield from self._each(name, enumerate(value))
        elif isinstance(value, Mapping) and all(isinstance(key, _TOLD) for key in value):
            yield from self._each(name, value.items())
        else:
            yield from self._object(name, value)

    def _each(self, name: str, items: Any) -> Iterator[str]:
        for key, value in items:
            yield from self._value(f"{name}[{key!r}]", value)

    def _function(self, value: FunctionType) -> Iterator[str]:
        if self._project.has_function(value):
            yield from self.lines(value)
        elif value not in self._seen:
            self._seen.add(value)
            yield from self._beyond(value, None)

    def _class(self, name: str, kind: type) -> Iterator[str]:
        """Return what the members of a class mean: those of its own, and of the bases that are the project's."""
        if kind in self._seen or not self._project.has_class(kind):
            return
        self._seen.add(kind)
        if issubclass(kind, Enum):
            for item in kind:
                yield from self._value(f"{name}.{item.name}", item)
        for base in filter(self._project.has_class, kind.__mro__):
            for member, value in sorted(vars(base).items()):
                if self._counts(member, value, is_enum=issubclass(kind, Enum)):
                    yield from self._value(f"{name}.{member}", value)

    def _counts(self, member: str, value: Any, *, is_enum: bool) -> bool:
        """Return whether a member of a class was written by the author of the class."""
        function = getattr(value, "__func__", value)
        is_special = member.startswith("__") and member.endswith("__")
        if isinstance(function, FunctionType):
            is_made = is_special and function.__code__.co_filename == "<string>"  # by a dataclass
            return not is_made and not member.startswith("__annotate") and self._project.has_function(function)
        return not (is_special or is_enum or member.startswith("_abc_") or type(value).__name__ in _DESCRIPTORS)

    def _object(self, name: str, value: Any) -> Iterator[str]:
        kind = type(value)
        is_users = self._project.has_class(kind)
        if is_users or isinstance(value, SimpleNamespace) or is_dataclass(value):
            if id(value) in self._seen:
                return
            self._seen.add(id(value))
            yield f"{name} = {kind.__name__}"
            yield from self._class(kind.__name__, kind)
            state = (
                {attribute.name: getattr(value, attribute.name, None) for attribute in fields(value)} if is_dataclass(value) else {}
            )
            yield from self._each(name, sorted((state | getattr(value, "__dict__", {})).items()))
        elif not callable(value) and not isinstance(value, (logging.Logger, BuiltinFunctionType)):
            self.opaque[name] = kind.__name__


def _held(function: FunctionType) -> list[FunctionType]:
    """Return the functions that a decorated one holds: what it wraps, and what it closes over."""
    around = surroundings(function)
    candidates = [getattr(function, "__wrapped__", None), *(around.get(name) for name in function.__code__.co_freevars)]
    return [candidate for candidate in candidates if isinstance(candidate, FunctionType)]


def _is_own(value: Any, attribute: str) -> bool:
    """Return whether an attribute says all: a class's does, and a value that an object has; a method needs its object."""
    if isinstance(value, type):
        return any(attribute in vars(base) for base in value.__mro__)
    return attribute in getattr(value, "__dict__", {})


def _defaults(function: FunctionType, node: ast.FunctionDef | ast.Lambda | None) -> Iterator[tuple[str, Any]]:
    """Return the defaults that a function's text does not tell, such as the ``factor`` of ``lambda rows, by=factor: …``."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    values = function.__defaults__ or ()
    given = dict(zip(names[len(names) - len(values) :], values, strict=True)) | (function.__kwdefaults__ or {})
    if node is not None:
        places = [*node.args.posonlyargs, *node.args.args]
        texts: list[tuple[ast.arg, ast.expr | None]] = [
            *zip(places[len(places) - len(node.args.defaults) :], node.args.defaults, strict=True),
            *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
        ]
        for place, text in texts:
            if text is not None and not any(isinstance(child, ast.Name) for child in ast.walk(text)):
                given.pop(place.arg, None)
    yield from sorted(given.items())


def _used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Return the names of a function's surroundings that it or a function inside it uses, with their values, in order."""
    names = {name for code in walked(function.__code__) for name in code.co_names}
    around = {name: value for name, value in surroundings(function).items() if name in function.__code__.co_freevars}
    around |= {name: function.__globals__[name] for name in names if name in function.__globals__}
    yield from sorted(around.items(), key=lambda item: item[0])


def _bare(function: ast.FunctionDef | ast.Lambda) -> ast.FunctionDef | ast.Lambda:
    """Take the docstrings out of a function, and what decorates it."""
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            node.decorator_list = []
    return function


def _is_users(value: FunctionType, function: FunctionType) -> bool:
    """Return whether a function is of the same project: one of a library changes with the library, which is another matter."""
    return (value.__module__ or "").partition(".")[0] == (function.__module__ or "").partition(".")[0]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    return isinstance(value, _PLAIN)


def _text(value: Any) -> str | None:
    """Return the one text that a value has wherever it is made; None where it holds something else than values."""
    if isinstance(value, (set, frozenset)):
        members = [_text(member) for member in value]
        texts = sorted(member for member in members if member is not None)
        return f"{{{', '.join(texts)}}}" if len(texts) == len(members) else None
    if type(value) in (tuple, list):
        parts = [_text(member) for member in value]
        return None if None in parts else f"{type(value).__name__}({', '.join(map(str, parts))})"
    if isinstance(value, dict):
        pairs = [(_text(key), _text(member)) for key, member in value.items()]
        return None if any(None in pair for pair in pairs) else f"{{{', '.join(f'{key}: {member}' for key, member in pairs)}}}"
    if isinstance(value, re.Pattern):  # its repr ends after 200 characters
        return f"re.compile({value.pattern!r}, {value.flags})"
    return repr(value) if isinstance(value, _TOLD) else None
