"""The ``init`` command."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, project_folder
from featurestore.cli.terminal import out
from featurestore.demo.starter import make_project, next_steps


def init(
    ctx: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The folder to make the project in, if not this one.")
    ] = None,
    empty: Annotated[bool, Flag("--empty", help="Make settings and folders alone, without the example.")] = False,
    project_dir: Folder = None,
) -> None:
    """Make a small project that works: definitions, some data, settings."""
    root = project_folder(ctx, project_dir) / (folder or Path())
    written, kept = make_project(root, empty=empty)
    console = out()
    console.print(f"Made a feature store project in [bold]{root.absolute()}[/bold]:\n", soft_wrap=True)
    for path, what in written.items():
        console.print(Text.assemble("  ", (f"{path:<26}", "cyan"), what))
    for path in kept:
        console.print(Text.assemble("  ", (f"{path:<26}", "cyan"), ("was there, and is left as it is", "dim")))
    console.print("\nNext:\n")
    for command, what in next_steps(folder, empty=empty):
        console.print(Text.assemble("  ", (command, "bold")), soft_wrap=True)
        console.print(Text(f"      {what}", style="dim"))
