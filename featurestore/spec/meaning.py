"""What a transform means, as a digest: a change of it is a change of the values it makes.

The digest does not depend on comments, docstrings, layout, or the version of Python. It takes in what the transform uses
from around it: functions written by the user, and plain values such as a threshold. What else it may use, a table it joins
or a library, is known by name alone.
"""

import ast
import copy
import hashlib
import linecache
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import polars as pl

Transform = Callable[[pl.LazyFrame], pl.LazyFrame]
"""What turns a source's rows into a view's."""

_PLAIN = (bool, int, float, str, bytes, type(None))


def source_text(function: FunctionType) -> str:
    """Returns a function's source, or nothing where there is none, as for one typed into a bare console."""
    text, node = _source(function)
    if node is None:
        return ""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return textwrap.dedent("".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno]))


def meaning_digest(function: FunctionType) -> str:
    """Returns a digest of what a function means.

    Example:
        >>> meaning_digest(source_text) == meaning_digest(meaning_digest)
        False
    """
    return hashlib.sha256("\n".join(_meanings(function, set())).encode()).hexdigest()


def _source(function: FunctionType) -> tuple[str, ast.FunctionDef | ast.Lambda | None]:
    """Returns the text of a function's file, and its node there; None where it cannot be told."""
    code = function.__code__
    # NOTE: not inspect.getsource, whose piece is no statement where a line of a text in it begins at the margin.
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    found = _functions(text).get((code.co_name, code.co_firstlineno), [])
    return text, found[0] if len(found) == 1 else None


@lru_cache(maxsize=16)
def _functions(text: str) -> dict[tuple[str, int], list[ast.FunctionDef | ast.Lambda]]:
    """Returns the functions in a module's text, by their names and each line that may be called their first.

    It is kept, for a module may hold hundreds of transforms.
    """
    found: dict[tuple[str, int], list[ast.FunctionDef | ast.Lambda]] = {}
    try:
        tree = ast.parse(text)
    except SyntaxError:  # the file was changed since, and is half-way
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for line in {node.lineno, *(decorator.lineno for decorator in node.decorator_list)}:
                found.setdefault((node.name, line), []).append(node)
        elif isinstance(node, ast.Lambda):
            found.setdefault(("<lambda>", node.lineno), []).append(node)
    return found


def _code_meaning(code: CodeType) -> str:
    """Returns what compiled code does, without the addresses and lines that its own text would name."""
    constants = [_code_meaning(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return repr((code.co_code, constants, code.co_names))


def _meanings(function: FunctionType, seen: set[Any]) -> Iterator[str]:
    code = function.__code__
    if code in seen:
        return
    seen.add(code)
    _, node = _source(function)
    # NOTE: ast.dump differs between versions of Python; the text that a tree stands for does not.
    yield ast.unparse(_bare(copy.deepcopy(node))) if node is not None else _code_meaning(code)
    for name, value in _used(function):
        if isinstance(value, FunctionType) and _is_users(value, function):
            yield from _meanings(value, seen)
        elif _is_plain(value):
            yield f"{name} = {value!r}"


def _used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Returns the names of a function's surroundings that it or a function inside it uses, with their values, in order."""
    codes = [function.__code__]
    names: set[str] = set()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    around = {name: cell.cell_contents for name, cell in cells}
    around |= {name: function.__globals__[name] for name in names if name in function.__globals__}
    yield from sorted(around.items(), key=lambda item: item[0])


def _bare(function: ast.FunctionDef | ast.Lambda) -> ast.FunctionDef | ast.Lambda:
    """Takes the docstrings out of a function, and what decorates it."""
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            node.decorator_list = []
    return function


def _is_users(value: FunctionType, function: FunctionType) -> bool:
    """Tells whether a function is of the same project: one of a library changes with the library, which is another matter."""
    return value.__module__.partition(".")[0] == function.__module__.partition(".")[0]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    return isinstance(value, _PLAIN)
