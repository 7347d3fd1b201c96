"""Errors of definitions, with file and line, raised all together.

A faulty definition raises where it stands, so a notebook shows it at once. While a folder of definitions is loaded the
faults are collected instead, and loading goes on to find the others.
"""

import ast
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from featurestore.errors import DefinitionError, DefinitionErrors

_collected: ContextVar[list[DefinitionError] | None] = ContextVar("collected", default=None)
_PACKAGE = str(Path(__file__).parent.parent)


@contextmanager
def collect_faults() -> Iterator[list[DefinitionError]]:
    """Collect the faults of all definitions made inside the block, which then do not raise."""
    faults: list[DefinitionError] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)


def report(faults: Sequence[DefinitionError]) -> None:
    """Raise the faults of one definition, or add them to those being collected.

    Raises:
        DefinitionError: there are faults, and nobody collects them.
    """
    if not faults:
        return
    collected = _collected.get()
    if collected is not None:
        collected.extend(faults)
    elif len(faults) == 1:
        raise faults[0]
    else:
        raise DefinitionErrors(faults)


def caller_place(*libraries: str) -> str:
    """Return ``file:line`` of the user's code that is now making a definition; empty outside a file.

    Args:
        libraries: folders of libraries that stand between the user's code and the definition.
    """
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        # Frames with made-up names ("<string>") are those of generated __init__ methods.
        if not name.startswith((_PACKAGE, "<string>", *libraries)):
            return f"{name}:{frame.f_lineno}" if not name.startswith("<") else ""
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def member_place(class_place: str, class_name: str, member: str) -> str:
    """Return ``file:line`` of a class's member, or the class's own place where its source cannot be read."""
    file, _, _ = class_place.rpartition(":")
    source = "".join(linecache.getlines(file)) if file else ""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return class_place
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for statement in node.body:
                named = getattr(statement, "target", None) or (statement.targets[0] if isinstance(statement, ast.Assign) else None)
                if getattr(named, "id", getattr(statement, "name", None)) == member:
                    return f"{file}:{statement.lineno}"
    return class_place
