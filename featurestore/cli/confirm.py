"""Questions that a command asks before it deletes something."""

import sys

import typer


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation, unless it was given by ``--yes``; end the command if it is refused."""
    if not yes:
        require_terminal()
        typer.confirm(question, abort=True)


def require_terminal() -> None:
    """Refuse to ask where no one can answer.

    Raises:
        BadParameter: the standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter("There is no terminal to ask on: add --yes, or look first with --dry-run.")
