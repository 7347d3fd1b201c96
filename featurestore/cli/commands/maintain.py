"""The ``maintain`` command."""

from typing import Annotated

import typer

from featurestore.cli.options import Engine, Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json, print_report


def maintain(
    ctx: typer.Context,
    views: Annotated[
        list[str] | None, typer.Argument(metavar="VIEWS", help="The views; without any, all, and what services answered.")
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long replaced files and retired versions stay (7d), if not as retention.files and retention.versions say.",
        ),
    ] = None,
    dry_run: Annotated[bool, Flag("--dry-run", help="Tell what would be done; change nothing.")] = False,
    engine: Engine = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Merge small files of the histories, remove files that nothing needs, and clean up versions nobody is given.

    It may run beside everything else. The scheduler does it by itself, as the setting maintenance.schedule says.
    """
    with open_store(ctx, project_dir, engine=engine) as store:
        report = store.admin.maintain(views or None, retention=retention, dry_run=dry_run)
    if json:
        print_json(report.to_dicts())
    else:
        print_report(out(), report)
