"""The ``describe`` command: one definition, and what uses it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from featurestore.cli.commands.list import first_line, to_dict
from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import cell, out, print_json, table
from featurestore.clock import format_duration
from featurestore.definitions.catalog import Catalog, find_entries
from featurestore.definitions.catalog_entry import CatalogEntry
from featurestore.definitions.description import feature
from featurestore.definitions.reference import Reference, ViewReference


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
    details = [to_dict(entry) | dict(_details(catalog, entry)) for entry in entries]
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
                    feature["name"], feature["type"], cell(rules), feature["unit"], cell(first_line(feature["description"]), 60)
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


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
