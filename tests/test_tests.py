"""How tests are written: they use what the package offers, and each of them alike."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "featurestore"

_SMALL = "a limit, made small: the test need not write so much"
_SHORT = "a patience, made short: the test need not wait so long"
_POWER = "what has reached the disk is known by who asks for it: there is no other sign of it before the power is cut"
REACHES = {
    "_AT_ONCE": _SMALL,
    "_ATTEMPTS": _SHORT,
    "_BATCH": _SMALL,
    "_BATCH_ROWS": _SMALL,
    "_CHECKPOINT_EVERY": _SMALL,
    "_CONFIGURATION": _SMALL,
    "_DELETES_A_TRANSACTION": _SMALL,
    "_INSTANTS": _SMALL,
    "_LOOKED_THROUGH": _SMALL,
    "_MOST_ROWS": _SMALL,
    "_MOST_SEGMENTS": _SMALL,
    "_OBJECT_BYTES": _SMALL,
    "_PLANS_KEPT": _SMALL,
    "_SMALL_FILES": _SMALL,
    "_SPLIT_AT": _SMALL,
    "_VISITS_A_TRANSACTION": _SMALL,
    "_WRITES_A_TRANSACTION": _SMALL,
    "_FIRST_PAUSE": _SHORT,
    "_GIVE_BACK_SECONDS": _SHORT,
    "_HOLD": _SHORT,
    "_LOCK_SECONDS": _SHORT,
    "_LONGEST_PAUSE": _SHORT,
    "_LOOK_SECONDS": _SHORT,
    "_PATIENCE": _SHORT,
    "_PAUSE": _SHORT,
    "_PULSE_SECONDS": _SHORT,
    "_WAIT": _SHORT,
    "_sync": _POWER,
    "_BEGIN": "how long PostgreSQL waits for a sign of life, else half a minute",
    "_Pulse": "see _run",
    "_run": "a holder of a lock that gives no sign of life: a network that is gone cannot be made by hand",
    "_deserialized": "the library's call that reads an expression: what it reads is recorded",
    "_failing": "whether a refusal is still believed; the test waits until it is not",
    "_fetching": "keys are fetched by a task that nobody waits for; the test does, before its loop ends",
    "_OPTIMISTIC": "a writer queues up only where it met others several times",
    "_files": "the record as it lies in the file: the contract asks how long it lasts, and no port tells",
    "_from_json": "an entry for which memory does not suffice cannot be made by hand",
    "_given": "a definition that is gone from a process which had it",
    "_keys": "see _fetching",
    "_lock": "a thread that holds it while its process forks",
    "_marks": "how often it is asked is what is tested",
    "_next_change": "a writer is held up between its reading and its commit",
    "_observers": "who observes a server: of one that writes no log there is nothing to see",
    "_open": "on which node of a cluster a mark lies, for the test to move it to another",
    "_pools": "a scheduler that works in the test's own thread, one task after the other",
    "_shared": "folders shared with the group by earlier tests are forgotten",
    "_warned": "warnings given by earlier tests are forgotten",
}
"""The private names of the package that tests use, and why; everything else is tested by what it does."""


def private(name: str) -> bool:
    """Whether a name is somebody's own; notebooks call ``_repr_html_``, and a named tuple offers ``_replace``."""
    return name.startswith("_") and not name.endswith("_") and name != "_replace"


def defined(tree: ast.Module) -> set[str]:
    """The names that a module gives to something: functions, classes, variables and attributes."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}


@cache
def trees(folder: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


@pytest.fixture(scope="module")
def package_names() -> set[str]:
    """The private names of the package."""
    return {name for tree in trees(PACKAGE).values() for name in defined(tree) if private(name)}


def of_itself(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def reaches(tree: ast.Module, package_names: set[str]) -> Iterator[tuple[int, str]]:
    """The places of a test module that name something private of the package's."""
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and of_itself(node)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "featurestore":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and not of_itself(node) and node.attr not in own:
            names = [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("featurestore."):
            names = node.value.split(".")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("setattr", "delattr"):
            names = [
                argument.value
                for argument in node.args[1:2]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            ]
        yield from ((node.lineno, name) for name in names if private(name) and name in package_names)


def test_tests_use_what_the_package_offers(package_names: set[str]) -> None:
    found = [(path, line, name) for path, tree in trees(TESTS).items() for line, name in reaches(tree, package_names)]
    new = [f"{path.relative_to(TESTS)}, line {line}: {name}" for path, line, name in found if name not in REACHES]
    assert new == [], "test what it does; if there is no other way, say why in REACHES"
    assert set(REACHES) == {name for _, _, name in found}, "what no test needs any more is taken out"


def test_one_module_kills_at_a_call() -> None:
    users = [path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py") if "sys.set" + "profile(" in path.read_text()]
    assert users == ["crashes.py"]


def test_one_class_is_a_clock_that_a_test_moves() -> None:
    """``featurestore.testing.FakeClock``."""
    clocks = [
        f"{path.relative_to(TESTS)}: {node.name}"
        for path, tree in trees(TESTS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__call__"
        and method.returns is not None and ast.unparse(method.returns) == "datetime"
    ]  # fmt: skip
    assert clocks == []
