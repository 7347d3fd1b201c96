"""The ``doctor`` command."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json, open_store
from featurestore.cli.terminal import out, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.maintenance.doctor import DoctorReport

_STATES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor(
    ctx: typer.Context,
    repair: Annotated[
        bool, Flag("--repair", help="Complete interrupted runs, and write online what the history has and that store lacks.")
    ] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Examines settings, servers, clocks, disks, definitions, and registry, history and online store together.

    Says of what is wrong what to do, and ends with 1 then. Of each view some entities are compared in both stores.
    """
    with open_store(ctx, project_dir) as store:
        found = store.admin.doctor(repair=repair)
    if json:
        print_json(found.to_dict())
    else:
        show_diagnosis(out(), found)
    if not found.is_well:
        raise typer.Exit(1)


def show_diagnosis(console: "Console", found: "DoctorReport") -> None:
    """Prints what was found, and what to do."""
    made = table("check", "state", "found")
    for each in found:
        told = Text(each.told)
        if each.advice:
            told.append(f"\n{each.advice}", style="bold")
        made.add_row(Text(each.check, style="cyan"), Text(each.state, style=_STATES[each.state]), told)
    console.print(made)
    console.print(found.summary)
