"""The ``doctor`` command."""

from typing import Annotated

import typer

from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json, print_report


def doctor(
    ctx: typer.Context,
    repair: Annotated[
        bool, Flag("--repair", help="Complete interrupted runs, and write online what the history has and that store lacks.")
    ] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Examine settings, servers, clocks, disks, definitions, and registry, history and online store together.

    Says of what is wrong what to do, and ends with 1 then. Of each view some entities are compared in both stores.
    """
    with open_store(ctx, project_dir) as store:
        report = store.admin.doctor(repair=repair)
    if json:
        print_json(report.to_dict())
    else:
        print_report(out(), report)
    if not report.is_well:
        raise typer.Exit(1)
