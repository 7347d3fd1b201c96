"""The ``status`` command."""

import re
from collections.abc import Callable
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from featurestore.cli.commands.runs import STATES, print_runs
from featurestore.cli.frames import rejected_table
from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import ago, called, nothing_applied, out, print_json, table
from featurestore.clock import format_seconds, utc_now
from featurestore.errors import NotFoundError
from featurestore.rows.python_values import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from featurestore.maintenance.status import StatusReport, ViewStatus
    from featurestore.store import FeatureStore


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
    with open_store(ctx, project_dir) as store:
        if watch:
            _watch(store, every, json=json)
        elif view is None:
            _show_views(store, json=json, check=check)
        elif rejected:
            _show_rejected(store, view, limit, json=json)
        else:
            _show_view(store, view, limit, json=json)


def _show_views(store: "FeatureStore", *, json: bool, check: bool) -> None:
    report = store.status()
    if json:
        print_json(list(report))
    else:
        out().print(_status_table(store, report))
    if check:
        store.scheduler.send_alerts(report, logged=False)  # it is printed above
        if report.wrong:
            raise typer.Exit(1)


def _watch(store: "FeatureStore", seconds: float, *, json: bool) -> None:
    console = out()
    if json or not console.is_terminal:
        _repeat(lambda: _show_views(store, json=json, check=False), lambda: sleep(seconds))
        return
    with Live(_status_table(store, store.status()), console=console, screen=True, auto_refresh=False) as live:
        _repeat(lambda: live.update(_status_table(store, store.status()), refresh=True), lambda: sleep(seconds))


def _repeat(show: Callable[[], None], pause: Callable[[], None]) -> None:
    try:
        while True:
            show()
            pause()
    except KeyboardInterrupt:
        return


def _status_table(store: "FeatureStore", report: "StatusReport") -> RenderableType:
    """Return the table of all views, and under it what is wrong with some."""
    settings = store.settings
    head = Text.assemble("project ", (settings.project, "bold"), f" · online {without_password(settings.online)}")
    if not report:
        return Group(head, nothing_applied(settings, store.admin.other_projects()))
    promised = any(status.freshness for status in report)
    scheduled = any(status.schedule for status in report)
    columns = ("view", "v", "rows", "lag", *(["promise"] if promised else []), "state", "last run",
               *(["schedule", "next"] if scheduled else []))  # fmt: skip
    grid = table(*columns, right=("rows", "lag", "promise"))
    for status in report:
        cells = [Text(status.view, style="cyan"), Text(str(status.version)), Text(f"{status.rows:,}")]
        cells.append(Text("" if status.lag is None else format_seconds(status.lag)))
        cells += [Text(status.freshness or "")] if promised else []
        cells += [Text(status.state, style=STATES[status.state]), _last_run(status)]
        cells += [Text(status.schedule or ""), Text(_until(status.next_run))] if scheduled else []
        grid.add_row(*cells)
    wrong = [Text(f"  {status.view}: {status.problem}", style="red") for status in report if status.problem]
    behind = [
        Text(
            f"  {status.view}: readers are given version {status.served}, until version {status.data_version} is materialized",
            style="yellow",
        )
        for status in report
        if status.served is not None
    ]
    return Group(head, grid, *wrong, *behind, *_notices(report), *_streams(store))


def _notices(statuses: "Iterable[ViewStatus]") -> "list[Text]":
    """Return what the last runs noticed of the views' sources, a line each."""
    return [Text(f"  {status.view}, {notice}", style="yellow") for status in statuses for notice in status.notices]


def _streams(store: "FeatureStore") -> list[RenderableType]:
    """Return the table of the streams, as far as there are any."""
    streams = store.streams.status()
    if not streams:
        return []
    grid = table("stream", "waiting", "pending", "behind", "set aside", right=("waiting", "pending", "behind", "set aside"))
    for stream in streams:
        numbers = f"{stream.waiting:,}", f"{stream.pending:,}", format_seconds(stream.seconds or 0.0), f"{stream.set_aside:,}"
        grid.add_row(Text(stream.source, style="cyan"), *numbers)
    lost = "  {}: {:,} entries were lost: the broker dropped them before they were pushed"
    return [
        grid,
        *(Text(lost.format(stream.source, stream.lost), style="red") for stream in streams if stream.lost),
        *(Text(f"  {stream.source}: {stream.error}", style="red") for stream in streams if stream.error),
    ]


def _until(time: "datetime | None") -> str:
    if time is None:
        return ""
    left = format_seconds((time - utc_now()).total_seconds())
    # The larger unit is enough.
    return f"in {re.sub('(?<=[a-z]).*', '', left)}"


def _last_run(status: "ViewStatus") -> Text:
    run = status.last_run
    if run is None:
        return Text("never", style="dim")
    return Text.assemble((run.state, STATES[run.state]), " ", ago(run.finished_at or run.started_at))


def _show_rejected(store: "FeatureStore", view: str, limit: int, *, json: bool) -> None:
    rows = store.runs.rejected_rows(view=view)
    if json:
        print_json(rows_of(rows))
    elif rows.is_empty():
        out().print(f"No row of {view!r} was rejected.")
    else:
        out().print(rejected_table(rows, out().width, limit))


def _show_view(store: "FeatureStore", view: str, limit: int, *, json: bool) -> None:
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
    for line in _notices(statuses):
        console.print(line, soft_wrap=True)
    if not runs:
        console.print(f"It was never materialized: {called(store.settings.root)} materialize {view}")
        return
    print_runs(console, runs, named=False)


def without_password(address: str) -> str:
    """Return an address without the user and password in it."""
    scheme, sign, rest = address.partition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}" if sign else address
