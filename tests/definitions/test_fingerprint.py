"""A transform's digest: what changes it, and what does not."""

import types
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.definitions.fingerprint import meaning_digest, meaning_of

BASE = """
import polars as pl

LIMIT = 30
TABLE = pl.LazyFrame({"k": [1]})

def doubled(column):
    return pl.col(column) * 2

def transform(rows):
    return rows.with_columns(y=doubled("x"), z=pl.col("x") > LIMIT).join(TABLE, on="k")
"""


def digest_of(text: str, tmp_path: Path) -> str:
    file = tmp_path / "module.py"
    file.write_text(text)
    import linecache

    linecache.clearcache()
    module = types.ModuleType("module")
    exec(compile(text, str(file), "exec"), module.__dict__)
    function: Any = module.transform
    return meaning_digest(function)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 30", "LIMIT = 30  # knots"),
        ('        "x"', '"x"'),
        ("def transform(rows):", 'def transform(rows):\n    """Doubles."""'),
        ("def doubled(column):", 'def doubled(column):\n    """Twice."""\n    # why'),
        ("    return rows.with", "\n\n    return rows.with"),
        ("import polars as pl", "import os\nimport polars as pl\nOTHER = 5"),
        ("def transform(rows):", "def ignored(function):\n    return function\n\n@ignored\ndef transform(rows):"),
    ],
)
def test_comments_docstrings_layout_and_strangers_change_nothing(old: str, new: str, tmp_path: Path) -> None:
    assert digest_of(BASE.replace(old, new), tmp_path) == digest_of(BASE, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"), [("LIMIT = 30", "LIMIT = 31"), ("* 2", "* 3"), ("> LIMIT", ">= LIMIT"), ('y=doubled("x")', 'y=doubled("z")')]
)
def test_what_it_does_and_what_it_uses_change_it(old: str, new: str, tmp_path: Path) -> None:
    assert digest_of(BASE.replace(old, new), tmp_path) != digest_of(BASE, tmp_path)


def test_a_text_at_the_margin_and_a_function_inside_are_no_hindrance(tmp_path: Path) -> None:
    text = BASE.replace("    return rows", '    query = """\nselect 1\n"""\n    inner = lambda: query\n    return rows')
    assert digest_of(text, tmp_path) == digest_of(text + "\n# more", tmp_path) != digest_of(BASE, tmp_path)


def test_a_value_it_closes_over_changes_it() -> None:
    def made(limit: int) -> Any:
        return lambda rows: rows.filter(pl.col("x") > limit)

    assert meaning_digest(made(1)) == meaning_digest(made(1)) != meaning_digest(made(2))


def test_every_version_of_python_finds_the_same(tmp_path: Path) -> None:
    """A registry is shared by people with different ones; what this gives must never change."""
    assert digest_of(BASE, tmp_path) == "dd7c6497b56d00fa3497692be0a8189428f20e11d0d653a3b6cc44154f7d2c9b"


BEFORE = """
import functools
import math
from datetime import datetime, timezone
from polars import col
import polars as pl
import polars.selectors as cs

LIMIT, NAMES, WEIGHTS = -0.5, ("a", ["b"]), {"x": (1, None), 2: b"y"}
TABLE = pl.LazyFrame({"k": [1]})

def timed(function):
    @functools.wraps(function)
    def inner(*given, **named):
        return function(*given, **named)
    return inner

def made(factor):
    def helper(column, *, by=2, since=-1):
        return pl.col(column).fill_null(since) * by * factor
    return helper

def deep(column):
    return [pl.col(each) * WEIGHTS["x"][0] for each in NAMES if each != column]

tripled = made(3)

@timed
def decorated(column):
    return pl.sum_horizontal(deep(column))

def transform(rows):
    started = datetime(2024, 1, 1, tzinfo=timezone.utc)
    def inside(column):
        return tripled(column) + decorated("b")
    return rows.select(cs.numeric()).join(TABLE, on="k").with_columns(
        y=inside("x"), z=col("x") > LIMIT * math.pi, at=pl.lit(started),
        f=pl.col("x").map_batches(lambda x: x, pl.Int64)
    )
"""


def test_what_the_version_before_told_is_told_the_same(tmp_path: Path) -> None:
    """Else every view with a transform would be computed again by whoever takes a new version of this package."""
    assert digest_of(BEFORE, tmp_path) == "fd9f3ea70ccab63b1ef1645811d4ac4f61e87907e24d95485aa9724a76e66ce8"


HELPERS = """
import polars as pl

LIMIT = 30
LIMITS = {1, 2}

class Config:
    T = 5

def clean(column):
    return pl.col(column) * factor()

def factor():
    return 2

def unused():
    return 1
"""
LIBRARY = """
def bare(function):
    return lambda *given: function(*given)
"""
SEEN: dict[str, tuple[str, str, str]] = {
    "module": ("import helpers", "helpers.clean('x')", "return 2"),
    "package": ("import other.deep.helpers", "other.deep.helpers.clean('x')", "return 2"),
    "module of a package": ("from other.deep import helpers as h", "h.clean('x')", "return 2"),
    "constant of a module": ("import helpers", "pl.col('x') > helpers.LIMIT", "LIMIT = 30"),
    "set of a module": ("import helpers", "pl.col('x').is_in(list(helpers.LIMITS))", "LIMITS = {1, 2}"),
    "class of a module": ("import helpers", "pl.col('x') > helpers.Config.T", "T = 5"),
    "function of another package": ("from other.deep.helpers import clean", "clean('x')", "return 2"),
    "inside a function inside": ("import helpers", "[helpers.clean(each) for each in ['x']][0]", "return 2"),
    "set": ("LIMITS = {1, 2, 3}", "pl.col('x').is_in(list(LIMITS))", "{1, 2, 3}"),
    "frozenset": ("LIMITS = frozenset(['a', 'b'])", "pl.col('x').is_in(list(LIMITS))", "'b'"),
    "set in a mapping": ("LIMITS = {'x': ({1}, 2)}", "pl.col('x').is_in(list(LIMITS['x'][0]))", "{1}"),
    "class": ("class Config:\n    T = 5", "pl.col('x') > Config.T", "T = 5"),
    "class inherited": ("class Base:\n    T = 5\nclass Config(Base):\n    pass", "pl.col('x') > Config.T", "T = 5"),
    "class inside": ("class Config:\n    class In:\n        T = 5", "pl.col('x') > Config.In.T", "T = 5"),
    "static method": ("class C:\n    @staticmethod\n    def f(x):\n        return pl.col(x) * 2", "C.f('x')", "* 2"),
    "class method": ("class C:\n    T = 5\n    @classmethod\n    def f(cls, x):\n        return pl.col(x) * cls.T",
        "C.f('x')", "T = 5"),
    "method": ("class C:\n    def f(self, x):\n        return self.g(x)\n    def g(self, x):\n        return pl.col(x) * 2",
               "C().f('x')", "* 2"),
    "object": ("class C:\n    def __init__(self, t):\n        self.t = t\n    def f(self, x):\n        return pl.col(x) * self.t\n"
        "c = C(5)",
               "c.f('x')", "C(5)"),
    "property": ("class C:\n    @property\n    def t(self):\n        return 5\nc = C()", "pl.col('x') > c.t", "return 5"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass C:\n    t: int\nc = C(5)", "pl.col('x') > c.t", "C(5)"),
    "default of a dataclass": ("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass C:\n    t: int = 5\nc = C()",
                               "pl.col('x') > c.t", "int = 5"),
    "slots": ("from dataclasses import dataclass\n@dataclass(slots=True)\nclass C:\n    t: int\nc = C(5)",
        "pl.col('x') > c.t", "C(5)"),
    "namespace": ("from types import SimpleNamespace\nc = SimpleNamespace(t=5)", "pl.col('x') > c.t", "t=5"),
    "enum": ("from enum import Enum\nclass E(Enum):\n    A = 5", "pl.col('x') > E.A.value", "A = 5"),
    "enum as a whole": ("from enum import Enum\nclass E(Enum):\n    A = 5", "pl.col('x').is_in([e.value for e in E])", "A = 5"),
    "cached": ("import functools\n@functools.cache\ndef f(x):\n    return x * 2", "pl.col('x') > f(1)", "* 2"),
    "wrapped": ("import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(x):\n        return f(x) * 2\n    return g\n"
                "@twice\ndef h(x):\n    return x", "pl.col('x') > h(1)", "* 2"),
    "wrapped by a library": ("from site_library import bare\n@bare\ndef h(x):\n    return x * 2", "pl.col('x') > h(1)", "* 2"),
    "single dispatch": ("import functools\n@functools.singledispatch\ndef f(x):\n    return x * 2", "pl.col('x') > f(1)", "* 2"),
    "partial": ("import functools\ndef f(x, y):\n    return x * y * 2\ng = functools.partial(f, 3)", "pl.col('x') > g(1)", "* 2"),
    "argument of a partial": ("import functools\ndef f(x, y):\n    return x * y\ng = functools.partial(f, y=3)",
        "pl.col('x') > g(1)", "y=3"),
    "partial of a module's": ("import functools, helpers\ng = functools.partial(helpers.clean)", "g('x')", "return 2"),
    "functions in a mapping": ("def f(x):\n    return x * 2\nF = {'f': f}", "pl.col('x') > F['f'](1)", "* 2"),
    "functions in a list": ("F = [lambda x: x * 2]", "pl.col('x') > F[0](1)", "* 2"),
    "bound method": ("class C:\n    def f(self, x):\n        return x * 2\nf = C().f", "pl.col('x') > f(1)", "* 2"),
    "default": ("T = 5\ndef f(x, y=T):\n    return x * y", "pl.col('x') > f(1)", "T = 5"),
    "a time": ("from datetime import datetime\nT = datetime(2024, 1, 1)", "pl.col('x') > T", "2024"),
    "a decimal": ("from decimal import Decimal\nT = Decimal('1.5')", "pl.col('x') > T", "1.5"),
    "a pattern": ("import re\nP = re.compile('a+')", "pl.col('x').str.contains(P.pattern)", "a+"),
}  # fmt: skip
"""What stands around a transform, what it uses of that, and what is changed there."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the transform of a project's module, by what stands around it, what it uses, and what is changed."""
    import importlib
    import linecache
    import sys

    root = tmp_path / "project"
    installed = root / ".venv" / "lib" / "site-packages"
    for folder in (root / "definitions", root / "other" / "deep", installed):
        folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.syspath_prepend(str(installed))
    before = set(sys.modules)

    def made(around: str, used: str, old: str = "", new: str = "") -> Any:
        def changed(text: str) -> str:
            return text.replace(old, new) if old else text

        for file in ("helpers.py", "other/deep/helpers.py"):
            (root / file).write_text(changed(HELPERS))
        (installed / "site_library.py").write_text(LIBRARY)
        file = root / "definitions" / "views.py"
        file.write_text(f"import polars as pl\n{changed(around)}\n\ndef transform(rows):\n    return rows.with_columns(y={used})\n")
        for name in set(sys.modules) - before:
            del sys.modules[name]
        importlib.invalidate_caches()
        linecache.clearcache()
        sys.dont_write_bytecode, was = True, sys.dont_write_bytecode
        try:
            return importlib.import_module("definitions.views").transform
        finally:
            sys.dont_write_bytecode = was

    yield made
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("kind", SEEN)
def test_d17_what_it_reaches_changes_it(kind: str, project: Any) -> None:
    """Whatever the way by which a transform reaches what is the project's."""
    around, used, old = SEEN[kind]
    new = next(word for word in (*(old.replace(digit, "7") for digit in "251"), old.replace("b", "c"), old + "0") if word != old)
    digest = meaning_digest(project(around, used))
    assert digest == meaning_digest(project(around, used))
    assert digest != meaning_digest(project(around, used, old, new))
    assert digest == meaning_digest(project(around, used, "return 1", "return 9")), "what it does not use counts"
    assert meaning_of(project(around, used))[1] == ()


def test_d17_a_view_may_take_a_value_of_its_own_class(project: Any) -> None:
    view = (
        "import polars as pl\nfrom featurestore import Entity, FeatureView, ParquetSource\n"
        "class V(FeatureView, entity=Entity('e', k=str), source=ParquetSource('s', 'x', event_time='t')):\n"
        "    x: float\n    LIMIT = 5\n"
        "    @staticmethod\n    def transform(rows):\n        return rows.filter(pl.col('x') > V.LIMIT)\n"
    )
    one, other = (project(f"{text}\n{text}", "V").__globals__["V"] for text in (view, view.replace("5", "7")))
    assert one.__opaque__ == other.__opaque__ == ()
    assert one.__view__.transform_digest != other.__view__.transform_digest
    both = project(f"{view}\n{view.replace('5', '7')}", "V").__globals__["V"]
    assert both.__view__.transform_digest == other.__view__.transform_digest, "the former class of a notebook counts"


def test_d17_a_set_has_no_order(tmp_path: Path) -> None:
    """The order of a set of texts differs by process."""
    text = BASE.replace("LIMIT = 30", "LIMIT = {%s}")
    names = [f"'{number}'" for number in range(20)]
    assert digest_of(text % ", ".join(names), tmp_path) == digest_of(text % ", ".join(reversed(names)), tmp_path)


@pytest.mark.parametrize(
    ("around", "used", "names"),
    [
        ("T = pl.LazyFrame({'k': [1]})", "pl.lit(T.collect_schema().len())", ["T (LazyFrame)"]),
        ("T = {'a': pl.Series([1])}", "pl.lit(T['a'])", ["T['a'] (Series)"]),
        ("class C:\n    T = pl.Series([1])", "pl.lit(C.T)", ["C.T (Series)"]),
        ("import helpers", "pl.lit(getattr(helpers, 'LIMIT'))", ["helpers (a module of yours as a whole)"]),
        ("class C:\n    def f(self):\n        return later()", "pl.lit(C().f())", ["later (not there when the view is defined)"]),
        ("import helpers", "pl.lit(helpers.nothing)", ["helpers.nothing (not there when the view is defined)"]),
        ("def f():\n    import helpers\n    return helpers.LIMIT", "pl.lit(f())",
         ["helpers (a module of yours that is imported inside a function)"]),
        ("def f():\n    import math\n    return math.pi", "pl.lit(f())", []),
        ("import math, logging\nfrom polars import col\nlog = logging.getLogger()", "(log.info('x'), col('x') > math.pi)[1]", []),
        ("from site_library import bare", "pl.lit(bare(len)('x'))", []),
    ],
)  # fmt: skip
def test_d17_what_cannot_be_told_is_named(around: str, used: str, names: list[str], project: Any) -> None:
    assert list(meaning_of(project(around, used))[1]) == names
