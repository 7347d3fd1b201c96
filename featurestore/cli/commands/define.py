"""The ``init``, ``plan`` and ``apply`` commands."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json, open_store, project_folder
from featurestore.cli.terminal import out, print_json
from featurestore.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.registry.diff import Change, Plan

_STYLES = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


def init(
    ctx: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The folder to make the project in, if not this one.")
    ] = None,
    project_dir: Folder = None,
) -> None:
    """Makes a small project that works: definitions, some data, settings."""
    from featurestore.demo.starter import make_project, next_steps

    root = project_folder(ctx, project_dir) / (folder or Path())
    written, kept = make_project(root)
    console = out()
    console.print(f"Made a feature store project in [bold]{root.absolute()}[/bold]:\n", soft_wrap=True)
    for path, what in written.items():
        console.print(Text.assemble("  ", (f"{path:<26}", "cyan"), what))
    for path in kept:
        console.print(Text.assemble("  ", (f"{path:<26}", "cyan"), ("was there, and is left as it is", "dim")))
    console.print("\nNext:\n")
    for command, what in next_steps(folder):
        console.print(Text.assemble("  ", (command, "bold")), soft_wrap=True)
        console.print(Text(f"      {what}", style="dim"))


def plan(
    ctx: typer.Context,
    exit_code: Annotated[bool, Flag("--exit-code", help="End with 2 where there is something to apply.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Shows what apply would add, change and remove, and what has to be recomputed."""
    with open_store(ctx, project_dir) as store:
        found = store.plan()
    if json:
        print_json(found.to_dict())
    else:
        show_plan(out(), found)
    if exit_code and not found.is_empty:
        raise typer.Exit(2)


def apply(
    ctx: typer.Context,
    allow_breaking: Annotated[
        bool, Flag("--allow-breaking", help="Apply even what takes features away from services that use them.")
    ] = False,
    allow_unprotect: Annotated[
        bool, Flag("--allow-unprotect", help="Apply even what makes personal features (pii) ones that are not; it is recorded.")
    ] = False,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Makes the definitions take effect: all of them or, on any error, none.

    Shows the plan. Where it removes or recomputes something, and this is a terminal, it asks first. Without a terminal it
    removes nothing unless --yes is said.
    """
    with open_store(ctx, project_dir) as store:
        found = None
        if not json:
            found = store.plan()
            show_plan(out(), found)
            if found.is_empty:
                return
            grave = any(change.action == "remove" or change.recompute for change in found.changes)
            if grave and not yes and sys.stdin.isatty() and sys.stdout.isatty():
                typer.confirm("Apply this?", abort=True)
                yes = True
        if not yes:
            found = found or store.plan()
            _check_removals(found)
        done = store.apply(allow_breaking=allow_breaking, allow_unprotect=allow_unprotect, expected=found)
        revision = store.catalog.revision
    if json:
        print_json({**done.to_dict(), "revision": revision})
    else:
        out().print(f"[green]Applied[/green] as revision {revision}.")


def _check_removals(plan: "Plan") -> None:
    """Refuses to remove what is applied where nobody is there to be asked: a folder may lack a file by mistake."""
    gone = [f"{change.kind} {change.name}" for change in plan.changes if change.action == "remove"]
    if gone:
        raise RequestError(
            f"This would remove {', '.join(gone)}, and nobody is there to be asked, so nothing was applied. Say --yes to remove "
            f"{'it' if len(gone) == 1 else 'them'}; or is a file of the definitions missing?"
        )


def show_plan(console: "Console", plan: "Plan", *, wrap: bool = False) -> None:
    """Prints a plan; ``wrap`` breaks its warnings where the terminal ends, which a program that reads them would not want."""
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
