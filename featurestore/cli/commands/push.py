"""The ``push`` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.arguments import read_frame
from featurestore.cli.commands.materialize import show_rejected
from featurestore.cli.options import Folder, Json, open_store
from featurestore.cli.terminal import called, out, print_json, table

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
    """Puts rows of a source straight into both stores, for online reads and training frames to see at once.

    They have the source's columns, and take the same transforms and checks as in a run. Rows that are known already are
    passed over.
    """
    with open_store(ctx, project_dir) as store:
        summary = store.push(source, read_frame(store.settings.root / file.expanduser()), views=view or None)
    if json:
        print_json(summary.to_dicts())
    else:
        show_pushed(out(), summary, called(store.settings.root))


def show_pushed(console: "Console", summary: "PushSummary", program: str) -> None:
    """Prints what a push did, a line a view, and why rows were rejected; ``program`` is how to call this one."""
    numbers = ("read", "new", "known", "rejected", "online")
    made = table("view", *numbers, "seconds", right=(*numbers, "seconds"))
    for each in summary:
        counts = (each.rows_read, each.rows_new, each.rows_known, each.rows_rejected, each.rows_online)
        cells = [
            Text(f"{count:,}", style="yellow" if name == "rejected" and count else "")
            for name, count in zip(numbers, counts, strict=True)
        ]
        made.add_row(Text(each.view, style="cyan"), *cells, f"{each.seconds:.2f}")
    console.print(made)
    for each in summary:
        if each.rows_waiting:
            told = f"  {each.view}: {each.rows_waiting:,} wait, for their times are not known yet: push them again"
            console.print(Text(told, style="yellow"), soft_wrap=True)
    show_rejected(console, summary, program)
    for each in summary:
        for remark in each.remarks:
            console.print(Text(f"  {each.view}: {remark}", style="dim"))
