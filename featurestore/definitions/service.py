"""Feature services: the features that one model uses, under one name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featurestore.definitions.definition_errors import caller_place, report
from featurestore.definitions.entity import check_name
from featurestore.definitions.reference import Reference, parse_references
from featurestore.errors import DefinitionError, RequestError


@dataclass(frozen=True, init=False)
class FeatureService:
    """The features that one model uses, in their order, under one name.

    Args:
        name: the service's name, by which a training job and a server ask for the same features.
        features: feature views, features and strings, as wherever features are named.
        description: what it serves.
        owner: who answers for it.
        tags: anything else, by name.
        log: the part of its answers that a server writes to the feature log: 0.1 is those for one in ten entities, always
            the same ones. ``store.feature_log`` reads it.

    Raises:
        DefinitionError: an item of ``features`` is not a feature, or ``log`` is not a fraction.

    Example:
        >>> FeatureService("delay_model", ["weather.temp", "planes"], owner="ops-ml")
        FeatureService('delay_model', [weather.temp, planes])
    """

    name: str
    references: tuple[Reference, ...]
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    log: float = 0.0
    place: str = field(default="", compare=False)

    def __init__(
        self,
        name: str,
        features: Sequence[Any],
        *,
        description: str = "",
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        log: float = 0.0,
    ) -> None:
        place = caller_place()
        faults = check_name("feature service", name, place)
        references: tuple[Reference, ...] = ()
        try:
            references = parse_references(features, where=f"in the service {name!r}")
        except RequestError as error:
            faults.append(DefinitionError(str(error), place))
        if not references and not faults:
            faults.append(DefinitionError(f"service {name!r} has no features; list some.", place))
        if isinstance(log, bool) or not isinstance(log, (int, float)) or not 0 <= log <= 1:
            faults.append(DefinitionError(f"service {name!r}: log={log!r} is not a part from 0 to 1.", place))
            log = 0.0
        values = {"name": name, "references": references, "description": description, "owner": owner,
                  "tags": dict(tags or {}), "log": float(log), "place": place}  # fmt: skip
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        report(faults)

    def __references__(self) -> tuple[Reference, ...]:
        return self.references

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"FeatureService({self.name!r}, [{', '.join(repr(reference) for reference in self.references)}])"
