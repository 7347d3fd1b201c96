"""The ``list`` command: what is applied, as the registry alone tells it."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_registry
from featurestore.cli.terminal import cell, nothing_applied, out, print_json, table
from featurestore.definitions.catalog_entry import KINDS, CatalogEntry

_PLURALS = {"entities": "entity", **{f"{kind}s": kind for kind in KINDS}}


def list_definitions(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="views, features, services, entities or sources; all, if left out.")
    ] = None,
    search: Annotated[
        str, typer.Option(metavar="WORDS", help="Only those with these words in name, type, description, owner or tags.")
    ] = "",
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this owner.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Only those with this tag: team, or team=growth.")] = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """List what is applied: views, features, services, entities and sources.

    Filters add up: an entry is listed if all of them match.
    """
    wanted: Any = None if kind is None else _PLURALS.get(kind, kind)
    with open_registry(ctx, project_dir) as registry:
        entries = registry.search(search, kind=wanted, owner=owner, tag=tag)
        is_empty = not (entries or search or owner or tag or registry.has_views())
        empty = nothing_applied(registry.settings, registry.other_projects()) if is_empty else "Nothing matches."
    if json:
        print_json([to_dict(entry) for entry in entries])
        return
    shown = table(*([] if wanted else ["kind"]), "name", "type", "owner", "tags", "description")
    for entry in entries:
        kind_cell = [] if wanted else [Text(entry.kind, style="dim")]
        shown.add_row(
            *kind_cell, entry.name, cell(entry.type), entry.owner, _tags(entry.tags), cell(first_line(entry.description), 60)
        )
    out().print(shown if entries else empty)


def to_dict(entry: CatalogEntry) -> dict[str, Any]:
    """Return an entry as JSON has it."""
    return {name: dict(value) if name == "tags" else value for name, value in vars(entry).items()}


def first_line(text: str) -> str:
    """Return the first line of a description."""
    return text.strip().split("\n", 1)[0]


def _tags(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())
