"""The ``sql`` command."""

from typing import Annotated

import typer

from featurestore.cli.frames import frame_table
from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json
from featurestore.rows.python_values import rows_of


def sql(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A SELECT, in which every view is a table.")],
    limit: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 40,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Query the history with SQL.

    A view's table has its join keys, event_time, available_time and the features. DuckDB runs the query. --json prints all
    rows.
    """
    with open_store(ctx, project_dir) as store:
        frame = store.sql(query)
    if json:
        print_json(rows_of(frame))
    else:
        console = out()
        console.print(frame_table(frame, console.width, limit))
