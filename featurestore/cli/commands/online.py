"""The ``online`` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from featurestore.cli.arguments import parse_pairs, read_rows, selection_of, split_features
from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import cell, instant, out, print_json, table
from featurestore.given_paths import local_path

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.retrieval.online_result import OnlineRows
    from featurestore.selection.select import Selection

_STATUSES = {"present": "green", "null": "", "expired": "yellow", "missing": "red"}


def online(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FEATURE|KEY=VALUE", help="Services, views and features; then keys and request fields: origin=JFK,LGA"
        ),
    ],
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Read as of this time, ISO 8601 in UTC, if not now.")] = None,
    rows: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Take the rows from a JSON file: [{"origin": "JFK"}, …]')
    ] = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Look features up: the values that a training frame would have now.

    A list of values, origin=JFK,LGA, asks for a row of each; an empty value, origin=, is a null key.
    """
    features, pairs = split_features(words)
    if not features:
        raise typer.BadParameter("Name the features before the keys: featurestore online delay_model origin=JFK")
    if rows is not None and pairs:
        raise typer.BadParameter("Give the keys as KEY=VALUE or in a file, not both.", param_hint="--rows")
    with open_store(ctx, project_dir) as store:
        selection = selection_of(store, features)
        keys = {column: dtype for join in selection.joins for column, dtype in zip(join.on, join.keys.values(), strict=True)}
        fields = {request_column.field.name: request_column.field.dtype for request_column in selection.computation.fields}
        path = None if rows is None else local_path(rows, store.settings.root, "file")
        given = parse_pairs(pairs, keys, fields) if path is None else read_rows(path, keys, fields)
        answer = store.online(features, given, at=at)
        values = answer.to_dicts()
    if json:
        print_json({"rows": values, "status": answer.status, "event_time": answer.event_time})
    else:
        show_rows(out(), selection, values, answer)


def show_rows(console: "Console", selection: "Selection", values: list[dict[str, Any]], answer: "OnlineRows") -> None:
    """Print a table a row: each feature with its value, why it has it, and since when it is so."""
    labels = {column.name: join.label for join in selection.joins for column in join.columns}
    labels |= {output.name: step.view for step in selection.computation.steps for output in step.outputs}
    status, times = answer.status, answer.event_time
    computed = [None] * len(values)
    for number, row in enumerate(values):
        given = {name: value for name, value in row.items() if name not in selection.names}
        keys = ", ".join(f"{name}={'null' if value is None else value}" for name, value in given.items())
        grid = table("feature", "value", "status", "event time, UTC", title=keys)
        before = None
        for name in selection.names:
            if before not in (None, labels[name]):
                grid.add_section()
            before = labels[name]
            why = status[name][number]
            grid.add_row(Text(name, style="cyan"), cell(row[name]), Text(why, style=_STATUSES[why]),
                         Text(instant(times.get(labels[name], computed)[number]), style="dim"))  # fmt: skip
        console.print(grid)
