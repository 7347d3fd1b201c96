"""The table of a project's status: how its views stand, what is wrong with some, and how its streams stand."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from featurestore.cli.commands.runs import STATES
from featurestore.cli.terminal import ago, nothing_applied, table
from featurestore.clock import format_seconds, utc_now

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.maintenance.status import StatusReport, ViewStatus
    from featurestore.streams.control import StreamStatus


def status_table(
    settings: "Settings", report: "StatusReport", others: Sequence[str], streams: "Sequence[StreamStatus]" = ()
) -> RenderableType:
    """Return the table of all views, and under it what is wrong with some, and the streams.

    Args:
        settings: the project's settings.
        report: how the views stand.
        others: the other projects in the registry, which are named where this one has no view.
        streams: how the streams stand.
    """
    head = Text.assemble("project ", (settings.project, "bold"), f" · online {without_password(settings.online)}")
    if not report:
        return Group(head, nothing_applied(settings, others))
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
    return Group(head, grid, *wrong, *behind, *notices(report), *_streams(streams))


def notices(statuses: "Iterable[ViewStatus]") -> list[Text]:
    """Return what the last runs noticed of the views' sources, a line each."""
    return [Text(f"  {status.view}, {notice}", style="yellow") for status in statuses for notice in status.notices]


def _streams(streams: "Sequence[StreamStatus]") -> list[RenderableType]:
    """Return the table of the streams, as far as there are any."""
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


def _until(time: datetime | None) -> str:
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


def without_password(address: str) -> str:
    """Return an address without the user and password in it."""
    scheme, sign, rest = address.partition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}" if sign else address
