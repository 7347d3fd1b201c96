"""Entities: the things that features describe, identified by one join key or several."""

import keyword
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
        keys: each join key and its type (a Python type, a Polars dtype). Several keys make a composite entity.
        description: what it is.
        owner: who answers for it.

    Raises:
        DefinitionError: no key is given, or a key has a type whose equality is in doubt (a float).

    Example:
        >>> import polars as pl
        >>> Entity("airport", origin=pl.String)
        Entity('airport', origin=String)
        >>> Entity("seat", flight=str, row=int).key_names
        ('flight', 'row')
    """

    name: str
    keys: dict[str, pl.DataType]
    description: str = ""
    owner: str = ""
    place: str = field(default="", compare=False)

    def __init__(self, name: str, /, *, description: str = "", owner: str = "", **keys: Any) -> None:
        place = caller_place()
        faults = check_name("entity", name, place)
        types: dict[str, pl.DataType] = {}
        for said, what in (("description", description), ("owner", owner)):
            if not isinstance(what, str):
                faults.append(
                    DefinitionError(
                        f"entity {name!r}: {said}= is a text about the entity, not {what!r}. A join key cannot be named "
                        f"{said!r}: name it otherwise, and rename= the source's column.",
                        place,
                    )
                )
        if not keys:
            faults.append(DefinitionError(f"entity {name!r} has no join key; name one: Entity({name!r}, {name}_id=str).", place))
        for key, given in keys.items():
            if key in RESERVED_COLUMNS or key.startswith("_"):
                faults.append(
                    DefinitionError(f"entity {name!r} cannot have a join key named {key!r}: the store uses that name.", place)
                )
            try:
                types[key] = as_dtype(given)
            except DefinitionError as error:
                faults.append(DefinitionError(f"join key {key!r} of entity {name!r}: {error.problem}", place))
                continue
            if not isinstance(types[key], KEY_TYPES):
                faults.append(
                    DefinitionError(
                        f"join key {key!r} of entity {name!r} is {types[key]}, whose values cannot be told equal with certainty. "
                        "Use text, an integer, bool, bytes or a date.",
                        place,
                    )
                )
        for attribute, value in (("name", name), ("keys", types), ("description", description), ("owner", owner), ("place", place)):
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
    """Returns the fault of a name that no attribute, file or SQL view can have; else nothing."""
    if name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_"):
        return []
    article = "an" if kind[0] in "aeiou" else "a"
    return [
        DefinitionError(f"{name!r} is no name for {article} {kind}: use letters, digits and _, beginning with a letter.", place)
    ]
