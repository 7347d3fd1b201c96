"""What ``featurestore status`` shows of an open store: all views, again and again; one view; its rejected rows."""

from collections.abc import Callable
from time import sleep
from typing import TYPE_CHECKING

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from featurestore.cli.commands.runs import print_runs
from featurestore.cli.frames import rejected_table, rows_of
from featurestore.cli.status_table import notices, status_table
from featurestore.cli.terminal import called, out, print_json, table
from featurestore.errors import NotFoundError

if TYPE_CHECKING:
    from featurestore.maintenance.status import StatusReport
    from featurestore.store import FeatureStore


def show_views(store: "FeatureStore", *, json: bool, check: bool) -> None:
    """Show how all views stand; to ``check`` is to end with 1 where one is wrong, and to send what has changed."""
    report = store.status()
    if json:
        print_json(list(report))
    else:
        out().print(_table(store, report))
    if check:
        store.scheduler.send_alerts(report, logged=False)  # it is printed above
        if report.wrong:
            raise typer.Exit(1)


def watch_views(store: "FeatureStore", seconds: float, *, json: bool) -> None:
    """Show how all views stand, again and again until Ctrl-C."""
    console = out()
    if json or not console.is_terminal:
        _repeat(lambda: show_views(store, json=json, check=False), lambda: sleep(seconds))
        return
    with Live(_table(store, store.status()), console=console, screen=True, auto_refresh=False) as live:
        _repeat(lambda: live.update(_table(store, store.status()), refresh=True), lambda: sleep(seconds))


def show_rejected(store: "FeatureStore", view: str, limit: int, *, json: bool) -> None:
    """Show the rejected rows of a view, with the reasons."""
    rows = store.runs.rejected_rows(view=view)
    if json:
        print_json(rows_of(rows))
    elif rows.is_empty():
        out().print(f"No row of {view!r} was rejected.")
    else:
        out().print(rejected_table(rows, out().width, limit))


def show_view(store: "FeatureStore", view: str, limit: int, *, json: bool) -> None:
    """Show one view, how it stands, and its latest runs."""
    applied = store.catalog.views.get(view)
    if applied is None:
        raise NotFoundError("applied feature view", view, store.catalog.views)
    if json:
        print_json([status for status in store.status() if status.view == view])
        return
    runs = store.runs.list(view, limit=limit)
    spec, console = applied.spec, out()
    features = table("feature", "type", "window" if spec.windows else "constraints", "description")
    for feature in spec.features:
        constraints = " ".join(f"{name}={bound}" for name, bound in feature.constraints.items())
        said = f"{feature.description}{', ' if feature.description and feature.unit else ''}{feature.unit}"
        features.add_row(Text(feature.name, style="cyan"), feature.type_name, Text(str(feature.window or constraints)), Text(said))
    keys = ", ".join(f"{key}: {dtype}" for key, dtype in spec.entity.keys.items())
    console.print(
        Text.assemble((view, "bold"), f" version {applied.version} · {spec.entity.name} ({keys}) from {spec.source.name}")
    )
    if spec.description:
        console.print(Text(spec.description, style="dim"))
    console.print(features)
    statuses = [feature for feature in store.status() if feature.view == view]
    for status in statuses:
        if status.problem:
            console.print(Text(status.problem, style="red"), soft_wrap=True)
    for line in notices(statuses):
        console.print(line, soft_wrap=True)
    if not runs:
        console.print(f"It was never materialized: {called(store.settings.root)} materialize {view}")
        return
    print_runs(console, runs, named=False)


def _repeat(show: Callable[[], None], pause: Callable[[], None]) -> None:
    try:
        while True:
            show()
            pause()
    except KeyboardInterrupt:
        return


def _table(store: "FeatureStore", report: "StatusReport") -> RenderableType:
    others = [] if report else store.admin.other_projects()
    return status_table(store.settings, report, others, store.streams.status() if report else ())
