"""The ``push`` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.arguments import read_frame
from featurestore.cli.commands.materialize import show_rejected
from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import called, out, print_json, print_report
from featurestore.given_paths import local_path

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.materialization.results import PushSummary


def push(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source whose rows they are.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The rows: Parquet (.parquet), CSV (.csv) or JSON (.json, .jsonl, .ndjson); - for JSON lines."
        ),
    ],
    view: Annotated[
        list[str] | None, typer.Option(metavar="VIEW", help="Push to this view only; may be given several times.")
    ] = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Put rows of a source straight into both stores, for online reads and training frames to see at once.

    They have the source's columns, and take the same transforms and checks as in a run. Rows that are known already are
    passed over.
    """
    with open_store(ctx, project_dir) as store:
        summary = store.push(source, read_frame(local_path(file, store.settings.root, "file")), views=view or None)
    if json:
        print_json(summary.to_dicts())
    else:
        show_pushed(out(), summary, called(store.settings.root))


def show_pushed(console: "Console", summary: "PushSummary", program: str) -> None:
    """Print what a push did, and how to see the rows that it rejected; ``program`` is how to call this program."""
    print_report(console, summary)
    show_rejected(console, [view.view for view in summary if view.rows_rejected], program)
