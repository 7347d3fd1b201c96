"""The ``rollback`` command."""

from typing import Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import called, out, print_json


def rollback(
    ctx: typer.Context,
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The view.")],
    to: Annotated[
        int | None, typer.Option(metavar="VERSION", help="The version to return to; the one served before, if left out.")
    ] = None,
    undo: Annotated[bool, Flag("--undo", help="Take a rollback back: give readers what is applied.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Give a view's readers an earlier version, at once and for training and online alike.

    They keep it, whatever is materialized, until the view is applied otherwise or the rollback is undone. Jobs go on writing what
    is applied.
    """
    with open_store(ctx, project_dir) as store:
        if undo and to is not None:
            raise typer.BadParameter("--undo gives readers the applied version: it goes without --to.")
        catalog = store.versions.undo_rollback(view) if undo else store.versions.rollback(view, to=to)
        program = called(store.settings.root)
    served, applied = catalog.served[view], catalog.views[view]
    if json:
        print_json({"view": view, "served": served.version, "applied": applied.version, "pinned": view in catalog.pinned})
        return
    console = out()
    console.print(Text.assemble("Readers of ", (view, "cyan"), f" are given version {served.version}."))
    if view in catalog.pinned:
        console.print(Text(f"They keep it until the view is applied otherwise, or: {program} rollback {view} --undo", style="dim"))
    elif served.data_version != applied.data_version:
        note = f"Version {applied.version} is given to them once it is materialized: {program} materialize {view}"
        console.print(Text(note, style="dim"))
