"""The ``status`` command."""

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_registry, open_store
from featurestore.cli.status_table import status_table
from featurestore.cli.terminal import out, print_json
from featurestore.maintenance.registry_status import registry_status

if TYPE_CHECKING:
    from pathlib import Path


def status(
    ctx: typer.Context,
    view: Annotated[str | None, typer.Argument(metavar="VIEW", help="Tell of one view, and of its latest runs.")] = None,
    rejected: Annotated[bool, Flag("--rejected", help="Show the view's rejected rows instead, with the reasons.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many runs or rejected rows to show.")] = 10,
    watch: Annotated[bool, Flag("--watch", help="Refresh it every few seconds, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How often, with --watch.")] = 2.0,
    check: Annotated[
        bool, Flag("--check", help="End with 1 where a view is late or failed, and tell the webhook that is set.")
    ] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Show how the views stand: how fresh they are against what they promise, rows, last run and next."""
    if rejected and view is None:
        raise typer.BadParameter("Name the view whose rejected rows you want to see.", param_hint="VIEW")
    if watch and (view is not None or check):
        raise typer.BadParameter("--watch shows all views, until it is interrupted: it goes with neither VIEW nor --check.")
    if view is None and not (watch or check) and _show_registry(ctx, project_dir, json=json):
        return
    # The library, which all views together need only where the registry and the logs of the histories do not say it all.
    from featurestore.cli.store_status import show_rejected, show_view, show_views, watch_views

    with open_store(ctx, project_dir) as store:
        if watch:
            watch_views(store, every, json=json)
        elif view is None:
            show_views(store, json=json, check=check)
        elif rejected:
            show_rejected(store, view, limit, json=json)
        else:
            show_view(store, view, limit, json=json)


def _show_registry(ctx: typer.Context, project_dir: "Path | None", *, json: bool) -> bool:
    """Show how all views stand without opening the stores; return whether that is known without them."""
    with open_registry(ctx, project_dir) as registry:
        report = registry_status(registry, streams=not json)
        others = registry.other_projects() if report is not None and not report else []
    if report is None:
        return False
    if json:
        print_json(list(report))
    else:
        out().print(status_table(registry.settings, report, others))
    return True
