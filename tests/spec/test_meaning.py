"""A transform's digest: what changes it, and what does not."""

import types
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.spec.meaning import meaning_digest

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
