"""The command that shows who changed what: audit."""

from typing import Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Folder, Json, open_store
from featurestore.cli.terminal import out, print_json, table


def audit(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many records, the newest first.")] = 20,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Shows who applied, rolled back, unprotected, forgot, made or revoked keys, and took the project down, and when.

    Forgotten entities are in it by their keyed hashes alone. What a server was asked for is in its own log (the setting audit).
    """
    with open_store(ctx, project_dir) as store:
        found = store.audit(limit)
    if json:
        print_json([each.to_dict() for each in found])
        return
    made = table("when", "who", "did", "what")
    for each in found:
        what = ", ".join(f"{name}: {_said(value)}" for name, value in each.what.items())
        made.add_row(each.at.isoformat(" ", "seconds"), Text(each.who), Text(each.action, style="cyan"), Text(what))
    out().print(made)


def _said(value: object) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
