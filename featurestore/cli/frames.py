"""Frames in a terminal: their first rows as a table."""

from collections.abc import Sequence

import polars as pl
from rich.table import Table
from rich.text import Text

from featurestore.cli.terminal import cell, row_count, table
from featurestore.rows.python_values import rows_of as rows_of
from featurestore.rows.python_values import values_of


def frame_table(frame: pl.DataFrame, width: int, rows: int) -> Table:
    """Return a frame's first rows as a table of as many columns as have room, and say what is left out."""
    shown = frame.head(rows)
    cells = [[cell(value) for value in values_of(column)] for column in shown.get_columns()]
    widths = [max([len(name), *(text.cell_len for text in column)]) + 2 for name, column in zip(frame.columns, cells, strict=True)]
    fitting = 0
    while fitting < len(widths) and sum(widths[: fitting + 1]) <= width - (3 if fitting + 1 < len(widths) else 0):
        fitting += 1
    fitting = max(fitting, 1)
    numbers = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
    grid = table(*frame.columns[:fitting], right=numbers)
    hidden = frame.width - fitting
    if hidden:
        grid.add_column("…")
    for row in zip(*cells[:fitting], strict=True):
        grid.add_row(*row, *(["…"] if hidden else []))
    captions = [row_count(frame.height)]
    if frame.height > rows:
        captions.append(f"the first {rows} are shown")
    if hidden:
        captions.append(f"{hidden} more columns: {', '.join(frame.columns[fitting:])}")
    grid.caption, grid.caption_justify = "; ".join(captions), "left"
    return grid


def rejected_table(rows: pl.DataFrame, width: int, limit: int) -> Table:
    """Return rejected rows as a table, the reasons and the numbers of runs first."""
    first = [name for name in ("_reason", "_run") if name in rows.columns]
    return frame_table(rows.select(*first, *(name for name in rows.columns if name not in first)), width, limit)


def head_table(frame: pl.DataFrame, spine: Sequence[str], rows: int = 3) -> Table:
    """Return a wide frame's first rows turned round: a line a column, the spine's columns apart from the features."""
    grid = table("column", "type", *(f"row {number + 1}" for number in range(min(rows, frame.height))))
    for name, column in zip(frame.columns, frame.head(rows).get_columns(), strict=True):
        last = name == (list(spine) or [""])[-1]
        grid.add_row(Text(name, style="cyan" if name not in spine else ""), Text(_type(column.dtype), style="dim"),
                     *(cell(value, 24) for value in values_of(column)), end_section=last)  # fmt: skip
    return grid


def _type(dtype: pl.DataType) -> str:
    return str(dtype.base_type()) if dtype.is_temporal() else str(dtype)
