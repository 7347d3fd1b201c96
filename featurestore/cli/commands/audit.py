"""The ``audit`` command: who changed what."""

from typing import Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json, table
from featurestore.errors import RequestError


def audit(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many records, the newest first.")] = 20,
    entity: Annotated[
        str, typer.Option("--entity", help="Print the digest by which a server's audit log names one of this entity, by --key.")
    ] = "",
    key: Annotated[list[str] | None, typer.Option("--key", metavar="KEY=VALUE", help="A join key; once for each.")] = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Show who applied, rolled back, unprotected, forgot, made or revoked keys, and took the project down, and when.

    Forgotten entities are in it by their keyed hashes alone. What a server was asked for is in its own log (the setting audit).
    """
    if bool(entity) != bool(key):
        raise typer.BadParameter("--entity ENTITY and --key KEY=VALUE go together.")
    with open_store(ctx, project_dir) as store:
        if entity:
            keys = {name: value for name, _, value in (record.partition("=") for record in key or ())}
            forms = store.admin.entity_forms(entity)
            if not any(form.keys.keys() == keys.keys() for form in forms):
                raise RequestError(
                    f"Entity {entity!r} has the join keys {', '.join(forms[0].key_names)}. Give each by --key KEY=VALUE."
                )
            digest = store.admin.entity_digests.of(entity, keys)
            print_json({"digest": digest}) if json else out().print(digest, soft_wrap=True)
            return
        records = store.admin.audit_trail(limit)
    if json:
        print_json([record.to_dict() for record in records])
        return
    grid = table("when", "who", "did", "what")
    for record in records:
        what = ", ".join(f"{name}: {_said(value)}" for name, value in record.what.items())
        grid.add_row(record.at.isoformat(" ", "seconds"), Text(record.who), Text(record.action, style="cyan"), Text(what))
    out().print(grid)


def _said(value: object) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
