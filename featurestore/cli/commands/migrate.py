"""The ``migrate`` command: bring the registry's tables to this version."""

from typing import Annotated

import typer

from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json


def migrate(
    ctx: typer.Context,
    dry_run: Annotated[bool, Flag("--dry-run", help="Show the schema version and what would be done; change nothing.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Bring the registry's tables to the schema version of this featurestore.

    The first use after an upgrade does so by itself; this command does it when you choose, and shows what is done. Back up the
    registry before. Each migration is done whole or, where it fails, not at all.
    """
    with open_store(ctx, project_dir) as store:
        report = store.admin.migrate(dry_run=dry_run)
    print_json(report.to_dict()) if json else out().print(str(report), soft_wrap=True)
