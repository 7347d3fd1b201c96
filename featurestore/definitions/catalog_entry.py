"""Entries of the catalog: one definition as a list shows it, and which entries match a search. It loads no Polars."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from featurestore import plugins
from featurestore.definitions.reference import reference_of
from featurestore.errors import RequestError
from featurestore.suggestion import did_you_mean
from featurestore.type_names import annotated

Kind = Literal["entity", "source", "view", "feature", "service"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class CatalogEntry:
    """One definition, as a list shows it.

    Args:
        kind: ``"entity"``, ``"source"``, ``"view"`` (requests and on-demand views among them), ``"feature"`` or ``"service"``.
        name: its name; of a feature ``"view.feature"``.
        type: a feature's type as one would annotate it; of the others what they are made of.
        description: its description.
        owner: who answers for it; of a feature the view's owner where it has none of its own.
        tags: its tags; of a feature the view's too.
        version: the version of a view as applied; None of what has no versions.
    """

    kind: Kind
    name: str
    type: str
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int | None = None

    def matches(self, text: str) -> bool:
        """Return whether all words of a text occur in the entry, in any case and order."""
        words = " ".join([self.name, self.type, self.description, self.owner, *self.tags, *self.tags.values()]).casefold()
        return all(word in words for word in text.casefold().split())

    def has_tag(self, tag: str) -> bool:
        """Return whether the entry has a tag, given as ``"name"`` or ``"name=value"``."""
        name, given, value = tag.partition("=")
        return name in self.tags and (not given or self.tags[name] == value)


def matching(
    entries: Iterable[CatalogEntry], text: str, *, kind: Kind | None, owner: str | None, tag: str | None
) -> list[CatalogEntry]:
    """Return the entries that match; see ``Catalog.search``.

    Raises:
        RequestError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise RequestError(f"There is no kind {kind!r} of definitions. {did_you_mean(str(kind), KINDS)}")
    return [
        entry
        for entry in entries
        if kind in (None, entry.kind)
        and entry.matches(text)
        and owner in (None, entry.owner)
        and (tag is None or entry.has_tag(tag))
    ]


def entries_of(kind: str, spec: Mapping[str, Any], version: int | None = None) -> Iterator[CatalogEntry]:
    """Yield the entries of a definition, its own and those of its features, from its plain values.

    Args:
        kind: its kind, as the registry calls it.
        spec: its plain values, as ``to_plain`` makes them and the registry keeps them: no dtype is needed, and so no Polars.
        version: the version of a view.
    """
    name, description, owner, tags = spec["name"], spec.get("description", ""), spec.get("owner", ""), spec.get("tags", {})
    if kind == "entity":
        yield CatalogEntry("entity", name, ", ".join(key for key, _ in spec["keys"]), description, owner)
    elif kind == "source":
        yield CatalogEntry("source", name, _class_of(spec["kind"]))
    elif kind == "service":
        asked = ", ".join(str(reference_of(reference)) for reference in spec["references"])
        yield CatalogEntry("service", name, asked, description, owner, tags)
    else:
        made_of = {"on_demand": "on demand", "request": "request"}
        of = f"{spec['entity']['name']} from {spec['source']['name']}" if kind == "view" else made_of[kind]
        yield CatalogEntry("view", name, of, description, owner, tags, version)
        yield from _features(name, spec["features"], owner, tags)


def _features(view: str, features: Sequence[Mapping[str, Any]], owner: str, tags: Mapping[str, str]) -> Iterator[CatalogEntry]:
    for feature in features:
        yield CatalogEntry(
            "feature",
            f"{view}.{feature['name']}",
            annotated(feature["dtype"], nullable=feature.get("nullable", False)),
            feature.get("description", ""),
            feature.get("owner") or owner,
            {**tags, **feature.get("tags", {})},
        )


def _class_of(kind: str) -> str:
    """Return the name of the class of a kind of source; the kind itself where no installed package brings it."""
    plugin = plugins.find(plugins.SOURCES, kind)
    return kind if plugin is None else plugin.value.rpartition(":")[2]
