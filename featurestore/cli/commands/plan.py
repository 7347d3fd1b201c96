"""The ``plan`` command."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json
from featurestore.errors import DefinitionError

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.registry.diff import Change, Plan

_STYLES = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


def plan(
    ctx: typer.Context,
    exit_code: Annotated[bool, Flag("--exit-code", help="End with 2 where there is something to apply.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Show what apply would add, change and remove, and what has to be recomputed."""
    with open_store(ctx, project_dir) as store:
        try:
            changes = store.plan()
        except DefinitionError as error:
            if not json:
                raise
            print_json({"faults": [_fault(fault) for fault in getattr(error, "faults", [error])]})
            raise typer.Exit(1) from None
    if json:
        print_json(changes.to_dict())
    else:
        show_plan(out(), changes)
    if exit_code and not changes.is_empty:
        raise typer.Exit(2)


def _fault(error: DefinitionError) -> dict[str, object]:
    file, _, line = error.place.rpartition(":")
    return {"file": file or None, "line": int(line) if line.isdigit() else None, "message": error.problem}


def show_plan(console: "Console", plan: "Plan", *, wrap: bool = False) -> None:
    """Print a plan; ``wrap`` breaks its warnings where the terminal ends, which a program that reads them would not want."""
    for change in plan.changes:
        console.print(_change(change))
    for line in plan.broken:
        console.print(Text(f"! breaks: {line}", style="bold red"), soft_wrap=True)
    for line in plan.unprotected:
        console.print(Text(f"! unprotects: {line}", style="bold red"), soft_wrap=True)
    for line in plan.warnings:
        console.print(Text(f"Warning: {line}", style="yellow"), soft_wrap=not wrap)
    console.print(plan.summary, style="bold" if plan.changes else "")


def _change(change: "Change") -> Text:
    symbol, style = _STYLES[change.action]
    text = Text.assemble((f"{symbol} {change.kind:<9} ", style), (change.name, "bold"))
    for line in change.details:
        text.append(f"\n    {line}")
    if change.recompute:
        text.append(f"\n    {change.recomputation}", style="yellow")
    return text
