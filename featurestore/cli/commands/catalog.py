"""The ``list`` and ``describe`` commands: browse what is applied."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from featurestore.cli.options import Folder, Json, open_store
from featurestore.cli.terminal import cell, nothing_applied, out, print_json, table
from featurestore.clock import format_duration
from featurestore.definitions.catalog import KINDS, Catalog, CatalogEntry, find_entries
from featurestore.definitions.description import feature
from featurestore.definitions.reference import Reference, ViewReference

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
    with open_store(ctx, project_dir) as store:
        entries = store.catalog.search(search, kind=wanted, owner=owner, tag=tag)
        empty = "Nothing matches." if search or owner or tag or store.catalog.views else nothing_applied(store)
    if json:
        print_json([_to_dict(entry) for entry in entries])
        return
    shown = table(*([] if wanted else ["kind"]), "name", "type", "owner", "tags", "description")
    for entry in entries:
        kind_cell = [] if wanted else [Text(entry.kind, style="dim")]
        shown.add_row(
            *kind_cell, entry.name, cell(entry.type), entry.owner, _tags(entry.tags), cell(_first_line(entry.description), 60)
        )
    out().print(shown if entries else empty)


def describe(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A view, view.feature, service, entity or source.")],
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Describe one definition as it is applied: what it is made of, who owns it, and what uses it."""
    with open_store(ctx, project_dir) as store:
        catalog = store.catalog
    entries = find_entries(catalog, name)
    details = [_to_dict(entry) | dict(_details(catalog, entry)) for entry in entries]
    if json:
        print_json(details if len(details) > 1 else details[0])
        return
    for entry, facts in zip(entries, details, strict=True):
        out().print(Text.assemble((entry.kind, "dim"), " ", (entry.name, "bold")))
        for fact, value in facts.items():
            if fact not in ("kind", "name", "features") and value not in (None, "", [], {}):
                out().print(Text.assemble((f"  {fact.replace('_', ' '):<12} ", "dim"), _as_text(value)))
        if facts.get("features"):
            shown = table("feature", "type", "constraints", "unit", "description")
            for feature in facts["features"]:
                rules = ", ".join(f"{rule}={value}" for rule, value in feature["constraints"].items())
                shown.add_row(
                    feature["name"], feature["type"], cell(rules), feature["unit"], cell(_first_line(feature["description"]), 60)
                )
            out().print(shown)


def _details(catalog: Catalog, entry: CatalogEntry) -> Iterator[tuple[str, Any]]:
    """Yield what is known of a definition beside its entry."""
    view_name, _, feature_name = entry.name.partition(".")
    if entry.kind in ("view", "feature"):
        spec: Any = catalog.referable[view_name]
        if entry.kind == "view":
            if view_name in catalog.views:
                yield "entity", spec.entity.name
                yield "keys", list(spec.entity.key_names)
                yield "source", spec.source.name
                yield "ttl", None if spec.ttl is None else format_duration(spec.ttl)
                yield "schedule", spec.schedule
                yield "freshness", None if spec.freshness is None else format_duration(spec.freshness)
            yield "features", [feature(member) for member in spec.features]
        else:
            described = spec.feature(feature_name)
            yield "constraints", described.constraints
            yield "unit", described.unit
            yield "window", None if described.window is None else str(described.window)
            yield "personal", described.pii or None
    if entry.kind == "entity":
        yield "views", [name for name, applied in catalog.views.items() if applied.spec.entity.name == entry.name]
    elif entry.kind == "source":
        yield "reads", repr(catalog.sources[entry.name])
        yield "views", [name for name, applied in catalog.views.items() if applied.spec.source.name == entry.name]
    elif entry.kind != "service":
        yield "services", [name for name, service in catalog.services.items() if _uses(service.references, view_name, feature_name)]


def _uses(references: Iterable[Reference], view: str, feature: str) -> bool:
    """Tell whether some references name a view, or if a feature is given, that feature of it."""
    return any(
        reference.view == view
        and (
            not feature
            or isinstance(reference, ViewReference)
            or feature in (reference.feature, *(name for _, name in reference.windows))
        )
        for reference in references
    )


def _to_dict(entry: CatalogEntry) -> dict[str, Any]:
    return {name: dict(value) if name == "tags" else value for name, value in vars(entry).items()}


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tags(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]
