"""What a transform means, as a digest: a change of it is a change of the values it makes.

The digest does not depend on comments, docstrings, layout, or the version of Python. It takes in what the transform uses
from around it: functions written by the user, and plain values such as a threshold. What else it may use, a table it joins
or a library, is known by name alone.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

_PLAIN = (bool, int, float, str, bytes, type(None))


def source_text(function: FunctionType) -> str:
    """Returns a function's source, or nothing where it was typed into a console."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except OSError:
        return ""


def meaning_digest(function: FunctionType) -> str:
    """Returns a digest of what a function means.

    Example:
        >>> meaning_digest(parse) == meaning_digest(parse)
        True
    """
    return hashlib.sha256("\n".join(_meanings(function, set())).encode()).hexdigest()


def parse(text: str) -> ast.Module | None:
    """Returns the syntax tree of a function's source; None where that is no statement by itself (some lambdas)."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def _meanings(function: FunctionType, seen: set[Any]) -> Iterator[str]:
    code = function.__code__
    if code in seen:
        return
    seen.add(code)
    tree = parse(source_text(function))
    # NOTE: ast.dump differs between versions of Python; the text that a tree stands for does not.
    yield ast.unparse(_without_docstrings(tree)) if tree and tree.body else repr((code.co_code, code.co_consts, code.co_names))
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


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _is_users(value: FunctionType, function: FunctionType) -> bool:
    """Tells whether a function is of the same project: one of a library changes with the library, which is another matter."""
    return value.__module__.partition(".")[0] == function.__module__.partition(".")[0]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    return isinstance(value, _PLAIN)
