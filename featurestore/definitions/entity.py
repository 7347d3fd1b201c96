"""Entities: the things that features describe, identified by one join key or several."""

import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from featurestore.definitions.definition_errors import caller_place, report
from featurestore.dtypes import KEY_TYPES, as_dtype
from featurestore.errors import DefinitionError

RESERVED_COLUMNS = frozenset({"event_time", "available_time", "_bucket"})
"""The columns of the history that are the store's own; no key and no feature has their name."""


@dataclass(frozen=True, init=False)
class Entity:
    """A thing that features are about, and the join keys that name it.

    Args:
        name: the entity's name.
        keys: each join key and its type (a Python type, a Polars dtype). Several keys make a composite entity. A key may be named
            ``description`` or ``owner`` too: what is a type is a key, and what is text is about the entity. For a key and text
            of one name give the keys as a mapping, ``keys={"owner": str}``.
        description: what it is.
        owner: who is responsible for it.

    Raises:
        DefinitionError: no key is given, or a key has a type whose equality is in doubt (a float).

    Example:
        >>> import polars as pl
        >>> Entity("airport", origin=pl.String)
        Entity('airport', origin=String)
        >>> Entity("seat", flight=str, row=int).key_names
        ('flight', 'row')
        >>> Entity("car", owner=str)
        Entity('car', owner=String)
        >>> Entity("car", keys={"owner": str}, owner="fleet team").owner
        'fleet team'
    """

    name: str
    keys: dict[str, pl.DataType]
    description: str = ""
    owner: str = ""
    place: str = field(default="", compare=False)

    def __init__(self, name: str, /, *, description: Any = "", owner: Any = "", **keys: Any) -> None:
        place = caller_place()
        faults = check_name("entity", name, place)
        types: dict[str, pl.DataType] = {}
        if isinstance(keys.get("keys"), Mapping):
            keys = {**keys.pop("keys"), **keys}
        words, faults_of_words = _words(name, {"description": description, "owner": owner}, keys)
        faults += [DefinitionError(problem, place) for problem in faults_of_words]
        if not keys:
            faults.append(DefinitionError(f"entity {name!r} has no join key; name one: Entity({name!r}, {name}_id=str).", place))
        for key, given in keys.items():
            types[key], problems = _read_key(name, key, given)
            faults += [DefinitionError(problem, place) for problem in problems]
        for attribute, value in {"name": name, "keys": types, **words, "place": place}.items():
            object.__setattr__(self, attribute, value)
        report(faults)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        keys = ", ".join(f"{key}={dtype}" for key, dtype in self.keys.items())
        return f"Entity({self.name!r}, {keys})"

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of the join keys, in their order."""
        return tuple(self.keys)


def check_name(kind: str, name: str, place: str) -> list[DefinitionError]:
    """Return the fault of a name that no attribute, file or SQL view can have; else nothing."""
    if name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_"):
        return []
    article = "an" if kind[0] in "aeiou" else "a"
    return [
        DefinitionError(
            f"{name!r} is not a valid name for {article} {kind}: use letters, digits and _, beginning with a letter.", place
        )
    ]


def _words(entity: str, words: dict[str, Any], keys: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the texts about an entity, and what is wrong with them; those that are types become keys, the last ones."""
    texts, problems = {}, []
    for word, value in words.items():
        texts[word] = value if isinstance(value, str) else ""
        if isinstance(value, str):
            continue
        if word in keys:
            problems.append(f"entity {entity!r}: {word}= must be text, for {word!r} is in keys= already; it is {value!r}.")
        else:
            keys[word] = value
    return texts, problems


def _read_key(entity: str, key: str, given: Any) -> tuple[pl.DataType, list[str]]:
    """Return a join key's dtype, and what is wrong with the key."""
    problems = []
    if key in RESERVED_COLUMNS or key.startswith("_"):
        problems.append(f"entity {entity!r} cannot have a join key named {key!r}: the store uses that name.")
    try:
        dtype = as_dtype(given)
    except DefinitionError as error:
        return pl.Null(), [*problems, f"join key {key!r} of entity {entity!r}: {error.problem}"]
    if not isinstance(dtype, KEY_TYPES):
        problems.append(
            f"join key {key!r} of entity {entity!r} is {dtype}, whose values cannot be compared reliably. "
            "Use text, an integer, bool, bytes or a date."
        )
    return dtype, problems
