"""The ``maintain`` command."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json, open_store
from featurestore.cli.terminal import out, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.maintenance.maintain import MaintenanceReport


def maintain(
    ctx: typer.Context,
    views: Annotated[
        list[str] | None, typer.Argument(metavar="VIEWS", help="The views; without any, all, and what services answered.")
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long replaced files and retired versions stay (7d), if not as keep_files_days and keep_versions_days say.",
        ),
    ] = None,
    dry_run: Annotated[bool, Flag("--dry-run", help="Tell what would be done; change nothing.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Merges small files of the histories, removes files that nothing needs, and cleans up versions nobody is given.

    It may run beside everything else. The scheduler does it by itself, as the setting upkeep_schedule says.
    """
    with open_store(ctx, project_dir) as store:
        report = store.admin.maintain(views or None, retention=retention, dry_run=dry_run)
    if json:
        print_json(report.to_dicts())
    else:
        show_maintenance(out(), report)


def show_maintenance(console: "Console", report: "MaintenanceReport") -> None:
    """Prints what was done, a line a history, retired version and feature log."""
    if not len(report):
        console.print("There is nothing to keep in order yet.")
        return
    numbers = ("files", "after", "merged", "removed", "bytes", "deleted")
    made = table("kind", "name", *numbers, right=numbers)
    for each in report:
        counts = (each.files_before, each.files_after, each.merged, each.removed, each.size, each.deleted)
        made.add_row(each.kind, Text(each.name, style="cyan"), *("" if count is None else f"{count:,}" for count in counts))
    console.print(made)
    if report.dry_run:
        console.print("Nothing was changed. Only the first step of each history is shown; there may be more.")
