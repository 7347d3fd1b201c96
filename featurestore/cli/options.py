"""Options that several commands share."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    Path | None,
    typer.Option("--project-dir", "-C", metavar="DIR", help="The project's folder, if not this one; paths start there."),
]
Flag = partial(typer.Option, metavar="")
Engine = Annotated[
    str | None, typer.Option(metavar="NAME", help="What runs it, local or ray; by default what the setting 'engine' says.")
]
Json = Annotated[bool, Flag("--json", help="Print JSON, for a script to read.")]

CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}
"""What no text may say to a terminal: C0 and C1, with which it would set the title or the clipboard, or clear the screen (K21)."""


def examples(*commands: str) -> str:
    """Return the end of a command's help."""
    word = "Example" if len(commands) == 1 else "Examples"
    lines = "\n".join(f"  $ {command}" for command in commands)
    return f"\b\n{word}:\n{lines}"  # \b: the lines are not wrapped


def project_folder(ctx: typer.Context, folder: Path | None) -> Path:
    """Return the project's folder: the one given to the command, or before it, or the one we are in."""
    return folder if folder is not None else ctx.ensure_object(Path)
