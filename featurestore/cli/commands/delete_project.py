"""The ``delete-project`` command."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.confirm import require_terminal
from featurestore.cli.options import Flag, Folder, Json, open_store
from featurestore.cli.terminal import out, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.maintenance.delete_project import DeletionReport


def delete_project(
    ctx: typer.Context,
    dry_run: Annotated[bool, Flag("--dry-run", help="Count what there is; remove nothing.")] = False,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask for the project's name.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Removes all that the project has in the offline store, the online store and the registry. There is no way back.

    Definitions and settings stay, and so do other projects on the same servers. Stop what serves, runs and pushes first.
    """
    with open_store(ctx, project_dir) as store:
        if not dry_run and not yes:
            require_terminal()
            named = typer.prompt(f"This removes all that the project {store.settings.project!r} keeps. Type its name to go on")
            if named != store.settings.project:
                raise typer.Abort
        report = store.admin.delete_project(dry_run=dry_run)
    if json:
        print_json(report.to_dict())
    else:
        show_deleted(out(), report)


def show_deleted(console: "Console", report: "DeletionReport") -> None:
    """Prints what was removed."""
    made = table("found in" if report.dry_run else "removed from", "what", "count", right=("count",))
    for each in report:
        made.add_row(Text(each.place, style="cyan"), Text(each.name), "?" if each.count is None else f"{each.count:,}")
    console.print(made)
    console.print(report.summary, soft_wrap=True)
