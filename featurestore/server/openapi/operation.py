"""Operations: what the OpenAPI document says of a route."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from featurestore.access.visibility import Visibility

Tag = Literal["features", "discovery", "health"]
Names = Callable[[Visibility], Sequence[str]]
"""The names that may stand in a parameter, of those that the caller may see."""


@dataclass(frozen=True)
class Operation:
    """What a route takes and answers.

    Args:
        id: its name in generated clients.
        summary: what it does.
        tag: where it stands.
        answers: what it answers, by media type: a ``Struct``, or ``bytes`` for what is not JSON.
        description: what the answer is.
        bodies: what its body may be, by media type; empty where it has none.
        query: the parameters of its query, as the fields of a ``Struct``.
        names: the names that may stand in a parameter of its query or path.
        of_each_service: whether it stands once for each service in the document, with the schemas of that service.
    """

    id: str
    summary: str
    tag: Tag
    answers: Mapping[str, Any]
    description: str
    bodies: Mapping[str, Any] = field(default_factory=dict)
    query: type[msgspec.Struct] | None = None
    names: Mapping[str, Names] = field(default_factory=dict)
    of_each_service: bool = False

    @property
    def structs(self) -> list[Any]:
        """The structs of its bodies and answers."""
        return [kind for kinds in (self.bodies, self.answers) for kind in kinds.values() if kind is not bytes]
