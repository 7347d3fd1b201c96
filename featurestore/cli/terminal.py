"""Terminal output: results go to standard output, progress bars and errors to standard error."""

import dataclasses
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from featurestore.cli.options import CONTROLS
from featurestore.clock import utc_now

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.reports import Report

_LONGEST_CELL = 40


class _Console(Console):
    """A console that prints styles of ours, and no control character of what was stored."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            segment if segment.control else Segment(segment.text.translate(CONTROLS), segment.style) for segment in buffer
        )


def out() -> Console:
    """Return the console of standard output, as it is now."""
    return _Console(highlight=False)


def err() -> Console:
    """Return the console of standard error, as it is now."""
    return _Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON: times as ISO 8601, NaN and infinities, which JSON lacks, as null."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode()
    typer.echo(text.translate({code: f"\\u{code:04x}" for code in range(127, 160)}))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def table(*columns: str, right: Iterable[str] = (), title: str | None = None) -> Table:
    """Return an empty table.

    Args:
        columns: the headers.
        right: the headers of columns of numbers, which stand at the right.
        title: what stands above it.
    """
    grid = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        # The first column names the line; rather the others are broken.
        grid.add_column(column, justify="right" if column in set(right) else "left", overflow="fold", no_wrap=place == 0)
    return grid


def print_report(console: Console, report: "Report[Any]") -> None:
    """Print a report: its table, the notes on its values, and its summary."""
    columns = report.columns()
    headers = [column.header.strip() for column in columns]
    if len(report):
        grid = table(*headers, right=[column.header for column in columns if column.is_number])
        below: list[Text] = []
        for value in report:
            cells = [Text(column.text(value).strip(), style=column.style(value)) for column in columns]
            for note in report.notes_on(value):
                if report.notes_in_cell:
                    cells[-1].append(f"\n{note.text}", style=note.style)
                else:
                    below.append(Text(f"  {cells[0]}: {note.text}", style=note.style))
            grid.add_row(*cells)
        console.print(grid)
        for line in below:
            console.print(line)
    if report.summary:
        console.print(report.summary, soft_wrap=True)


def nothing_applied(settings: "Settings", others: Sequence[str]) -> Text:
    """Return what to do where no view is applied: apply some, or name the project that was meant, of the others that there are."""
    lines = [f"No views are applied in project {settings.project!r}. Apply some: {called(settings.root)} apply"]
    if others:
        named = ", ".join(others[:10]) + (", …" if len(others) > 10 else "")
        lines.append(f"This registry has other projects: {named}. Name one: FEATURESTORE_PROJECT={others[0]}")
    return Text("\n".join(lines))


def cell(value: Any, longest: int = _LONGEST_CELL) -> Text:
    """Return a value as it stands in a table."""
    if value is None:
        return Text("null", style="dim")
    if isinstance(value, datetime):
        return Text(instant(value))
    if isinstance(value, bool):
        return Text(str(value).lower())
    text = "NaN" if isinstance(value, float) and math.isnan(value) else str(value)
    return Text(text if len(text) <= longest else text[: longest - 1] + "…")


def row_count(rows: int) -> str:
    """Return a number of rows in words."""
    return "1 row" if rows == 1 else f"{rows:,} rows"


def instant(value: datetime | None) -> str:
    """Return a time in UTC without the zeros at its end; empty for none."""
    if value is None:
        return ""
    aware = value if value.tzinfo is None else value.astimezone(UTC)  # a naive time is in UTC (S1), wherever this machine stands
    text = aware.replace(tzinfo=None).isoformat(" ")
    return text.rstrip("0").rstrip(".") if "." in text else text


def ago(value: datetime | None) -> str:
    """Return how long ago a time was, in its largest unit."""
    if value is None:
        return ""
    passed = utc_now() - value
    for name, unit in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if passed >= unit:
            return f"{passed // unit} {name} ago"
    return "just now"


def shown_path(path: Path) -> str:
    """Return a path as one would type it here: relative where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def called(root: Path | None = None, *, anywhere: bool = False) -> str:
    """Return how to call this program, for the project in a folder: from here or, where that is said, from anywhere."""
    elsewhere = root is not None and root.resolve() != Path.cwd().resolve()
    chosen = f" -C {shlex.quote(shown_path(root.absolute()))}" if root is not None and elsewhere else ""
    this = Path(sys.argv[0])
    installed = shutil.which("featurestore")
    if this.name != "featurestore" or (installed and os.path.realpath(installed) == os.path.realpath(this)):
        return f"featurestore{chosen}"
    return shlex.quote(str(this.absolute()) if anywhere else shown_path(this.absolute())) + chosen
