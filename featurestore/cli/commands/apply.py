"""The ``apply`` command."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.commands.plan import show_plan
from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json
from featurestore.errors import RequestError

if TYPE_CHECKING:
    from featurestore.registry.diff import Plan


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
    """Make the definitions take effect: all of them or, on any error, none.

    Shows the plan. Where it removes or recomputes something, and this is a terminal, it asks first. Without a terminal it
    removes nothing unless --yes is said.
    """
    with open_store(ctx, project_dir) as store:
        changes = None
        if not json:
            changes = store.plan()
            show_plan(out(), changes)
            if changes.is_empty:
                return
            grave = any(change.action == "remove" or change.recompute for change in changes.changes)
            if grave and not yes and sys.stdin.isatty() and sys.stdout.isatty():
                typer.confirm("Apply this?", abort=True)
                yes = True
        if not yes:
            changes = changes or store.plan()
            _check_removals(changes)
        done = store.apply(allow_breaking=allow_breaking, allow_unprotect=allow_unprotect, expected=changes)
        revision = store.catalog.revision
    if json:
        print_json({**done.to_dict(), "revision": revision})
    else:
        out().print(f"[green]Applied[/green] as revision {revision}.")


def _check_removals(plan: "Plan") -> None:
    """Refuse to remove what is applied where nobody is there to be asked: a folder may lack a file by mistake."""
    gone = [f"{change.kind} {change.name}" for change in plan.changes if change.action == "remove"]
    if gone:
        raise RequestError(
            f"This would remove {', '.join(gone)}, and nobody is there to be asked, so nothing was applied. Say --yes to remove "
            f"{'it' if len(gone) == 1 else 'them'}; or is a file of the definitions missing?"
        )
