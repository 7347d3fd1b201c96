"""Options that several commands share, and how a command opens its store."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.errors import ConfigError
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from featurestore.config import Settings

Folder = Annotated[
    Path | None,
    typer.Option("--project-dir", "-C", metavar="DIR", help="The project's folder, if not this one; paths start there."),
]
Flag = partial(typer.Option, metavar="")
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


def open_store(ctx: typer.Context, folder: Path | None) -> FeatureStore:
    """Return the store of the project in a folder.

    Raises:
        ConfigError: there is no project, so that nothing is written where a command was run by mistake.
    """
    store = FeatureStore(project_folder(ctx, folder))
    require_project(store.settings)
    return store


def require_project(settings: "Settings") -> None:
    """Raise ``ConfigError`` where there is no project in the folder of some settings."""
    root, definitions = settings.root, settings.definitions
    is_project = (root / "featurestore.toml").exists() or (root / definitions).is_dir() or "FEATURESTORE_REGISTRY" in os.environ
    if not (is_project or (root / ".featurestore").is_dir()):  # which a notebook makes that opens a store here
        raise ConfigError(
            f"There is no project in {root}: it has neither a featurestore.toml nor a folder {definitions!r}. "
            "Name the project's folder with -C DIR, or make a project: featurestore init"
        )
