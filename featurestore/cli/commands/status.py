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
    """Shows how the views stand: how fresh they are against what they promise, rows, last run and next."""
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
    standing = store.status()
    if json:
        print_json(list(standing))
    else:
        out().print(_standing(store, standing))
    if check:
        store.scheduler.send_alerts(standing, logged=False)  # it is printed above
        if standing.wrong:
            raise typer.Exit(1)


def _watch(store: "FeatureStore", seconds: float, *, json: bool) -> None:
    console = out()
    if json or not console.is_terminal:
        _repeat(lambda: _show_views(store, json=json, check=False), lambda: sleep(seconds))
        return
    with Live(_standing(store, store.status()), console=console, screen=True, auto_refresh=False) as live:
        _repeat(lambda: live.update(_standing(store, store.status()), refresh=True), lambda: sleep(seconds))


def _repeat(show: Callable[[], None], pause: Callable[[], None]) -> None:
    try:
        while True:
            show()
            pause()
    except KeyboardInterrupt:
        return


def _standing(store: "FeatureStore", standing: "StatusReport") -> RenderableType:
    """Returns the table of all views, and under it what is wrong with some."""
    settings = store.settings
    head = Text.assemble("project ", (settings.project, "bold"), f" · online {without_password(settings.online)}")
    if not standing:
        return Group(head, nothing_applied(settings, store.admin.other_projects()))
    promised = any(each.freshness for each in standing)
    scheduled = any(each.schedule for each in standing)
    columns = ("view", "v", "rows", "lag", *(["promise"] if promised else []), "state", "last run",
               *(["schedule", "next"] if scheduled else []))  # fmt: skip
    made = table(*columns, right=("rows", "lag", "promise"))
    for each in standing:
        cells = [Text(each.view, style="cyan"), Text(str(each.version)), Text(f"{each.rows:,}")]
        cells.append(Text("" if each.lag is None else format_seconds(each.lag)))
        cells += [Text(each.freshness or "")] if promised else []
        cells += [Text(each.state, style=STATES[each.state]), _last_run(each)]
        cells += [Text(each.schedule or ""), Text(_until(each.next_run))] if scheduled else []
        made.add_row(*cells)
    wrong = [Text(f"  {each.view}: {each.problem}", style="red") for each in standing if each.problem]
    behind = [
        Text(
            f"  {each.view}: readers are given version {each.served}, until version {each.data_version} is materialized",
            style="yellow",
        )
        for each in standing
        if each.served is not None
    ]
    return Group(head, made, *wrong, *behind, *_notices(standing), *_streams(store))


def _notices(standing: "Iterable[ViewStatus]") -> "list[Text]":
    """Returns what the last runs noticed of the views' sources, a line each."""
    return [Text(f"  {each.view}, {notice}", style="yellow") for each in standing for notice in each.notices]


def _streams(store: "FeatureStore") -> list[RenderableType]:
    """Returns the table of the streams, as far as there are any."""
    found = store.streams.status()
    if not found:
        return []
    made = table("stream", "waiting", "pending", "behind", "set aside", right=("waiting", "pending", "behind", "set aside"))
    for each in found:
        made.add_row(Text(each.source, style="cyan"), f"{each.waiting:,}", f"{each.pending:,}", format_seconds(each.seconds or 0.0),
                     f"{each.set_aside:,}")  # fmt: skip
    lost = "  {}: {:,} entries were lost: the broker dropped them before they were pushed"
    return [
        made,
        *(Text(lost.format(each.source, each.lost), style="red") for each in found if each.lost),
        *(Text(f"  {each.source}: {each.error}", style="red") for each in found if each.error),
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
    found = store.runs.list(view, limit=limit)
    if json:
        print_json(found)
        return
    spec, console = applied.spec, out()
    features = table("feature", "type", "window" if spec.windows else "constraints", "description")
    for each in spec.features:
        constraints = " ".join(f"{name}={bound}" for name, bound in each.constraints.items())
        said = f"{each.description}{', ' if each.description and each.unit else ''}{each.unit}"
        features.add_row(Text(each.name, style="cyan"), each.type_name, Text(str(each.window or constraints)), Text(said))
    keys = ", ".join(f"{key}: {dtype}" for key, dtype in spec.entity.keys.items())
    console.print(
        Text.assemble((view, "bold"), f" version {applied.version} · {spec.entity.name} ({keys}) from {spec.source.name}")
    )
    if spec.description:
        console.print(Text(spec.description, style="dim"))
    console.print(features)
    standing = [each for each in store.status() if each.view == view]
    for status in standing:
        if status.problem:
            console.print(Text(status.problem, style="red"), soft_wrap=True)
    for line in _notices(standing):
        console.print(line, soft_wrap=True)
    if not found:
        console.print(f"It was never materialized: {called(store.settings.root)} materialize {view}")
        return
    print_runs(console, found, named=False)


def without_password(address: str) -> str:
    """Returns an address without the user and password in it."""
    scheme, sign, rest = address.partition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}" if sign else address
