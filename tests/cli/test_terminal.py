"""How this program is called, and how values look."""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from featurestore.cli.frames import frame_table
from featurestore.cli.terminal import ago, called, cell, instant
from featurestore.clock import utc_now


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that runs from a folder beside the one we are in."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "featurestore"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.chdir(tmp_path)
    return program


def test_a_program_on_the_path_is_called_by_its_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert called() == called(Path()) == "featurestore"
    assert called(Path("my shop")) == "featurestore -C 'my shop'"


def test_a_program_elsewhere_is_called_by_where_it_is(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert called(Path("shop")) == "bin/featurestore -C shop"
    assert called(anywhere=True) == str(program)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (float("nan"), "NaN"),
        (10.357019999999999, "10.357019999999999"),
        (datetime(2013, 7, 1, 12, tzinfo=UTC), "2013-07-01 12:00:00"),
        (datetime(2013, 7, 1, 12, 0, 0, 1500, tzinfo=UTC), "2013-07-01 12:00:00.0015"),
        ("x" * 50, "x" * 39 + "…"),
    ],
)
def test_cells(value: Any, text: str) -> None:
    assert cell(value).plain == text


@pytest.mark.parametrize(
    ("passed", "text"), [(30, "just now"), (90, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago"), (-5, "just now")]
)
def test_ago(passed: int, text: str) -> None:
    assert ago(utc_now() - timedelta(seconds=passed)) == text
    assert ago(None) == instant(None) == ""


@pytest.mark.parametrize("width", [20, 80, 120])
def test_a_table_has_the_columns_that_have_room(width: int) -> None:
    frame = pl.DataFrame({f"column_{number}": [1.25 * number] * 3 for number in range(30)})
    console = Console(width=width, record=True)
    with console.capture() as captured:
        console.print(frame_table(frame, width, 2))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert any("column_0" in line for line in lines)
    assert "3 rows; the first 2 are shown;" in " ".join(captured.get().split())
