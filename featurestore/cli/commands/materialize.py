"""The ``materialize`` command."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Engine, Flag, Folder, Json
from featurestore.cli.progress import bars
from featurestore.cli.project import open_store
from featurestore.cli.terminal import called, out, print_json, print_report, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from featurestore.materialization.results import MaterializeSummary


def materialize(
    ctx: typer.Context,
    views: Annotated[
        list[str] | None, typer.Argument(metavar="VIEWS", help="The views; without any, all that are applied.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Read from this available time on, even what was read before.")
    ] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Read what is available by this time, if not now.")] = None,
    chunk: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="Read in spans of this length (1d), each a run, from --start or the first row on."),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, metavar="VIEWS", help="How many views to do at once.")] = 1,
    dry_run: Annotated[bool, Flag("--dry-run", help="Read and check only; write nothing.")] = False,
    rebuild: Annotated[
        bool, Flag("--rebuild-online", help="Read no source; write the history's latest values online, if that store is new.")
    ] = False,
    engine: Engine = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Bring what is new in the sources into the history and the online store.

    A run that was interrupted is completed first; a run repeated changes nothing. Times are ISO 8601, in UTC. With --chunk, spans
    that are done are not done again when the same backfill is repeated.
    """
    if rebuild and (start or end or chunk or dry_run):
        raise typer.BadParameter("--rebuild-online reads no source, so it goes with none of --start, --end, --chunk and --dry-run.")
    with open_store(ctx, project_dir, engine=engine) as store, bars(wanted=not json) as progress:
        if rebuild:
            show_rebuilt(store.admin.rebuild_online(views or None, progress=progress), json=json)
            return
        summary = store.materialize(
            views or None, start=start, end=end, chunk=chunk, parallel=parallel, dry_run=dry_run, progress=progress
        )
    if json:
        print_json(summary.to_dicts())
    else:
        show_summary(out(), summary, called(store.settings.root))


def show_rebuilt(written: dict[str, int], *, json: bool) -> None:
    """Print how many values were written online, a line a view."""
    if json:
        print_json(written)
        return
    grid = table("view", "online", right=("online",))
    for view, values in written.items():
        grid.add_row(Text(view, style="cyan"), f"{values:,}")
    out().print(grid)


def show_summary(console: "Console", summary: "MaterializeSummary", program: str) -> None:
    """Print what a materialization did, and how to see the rows that it rejected.

    Args:
        console: where to.
        summary: what it did.
        program: how to call this program.
    """
    if not len(summary):
        console.print(f"There are no views to materialize. Apply some: {program} apply")
        return
    print_report(console, summary)
    show_rejected(console, [] if summary.dry_run else [view.view for view in summary if view.rows_rejected], program)


def show_rejected(console: "Console", views: "Iterable[str]", program: str) -> None:
    """Print how to see the rejected rows of some views."""
    for view in views:
        console.print(Text(f"  Rejected rows are kept: {program} status {view} --rejected", style="dim"), soft_wrap=True)
