"""The ``delete-project`` command."""

from typing import Annotated

import typer

from featurestore.cli.confirm import require_terminal
from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json, print_report


def delete_project(
    ctx: typer.Context,
    dry_run: Annotated[bool, Flag("--dry-run", help="Count what there is; remove nothing.")] = False,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask for the project's name.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Remove all that the project has in the offline store, the online store and the registry. There is no way back.

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
        print_report(out(), report)
