"""Changes of protection: personal features that an apply would show to everyone who may read the view."""

from collections.abc import Iterator

from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.serialization import from_json
from featurestore.project.collect import Definitions
from featurestore.registry.specs import SpecRegistry


def unprotected(registry: SpecRegistry, definitions: Definitions) -> list[str]:
    """Return a line for each feature that is marked as personal where it was defined last, and is not any more.

    A view that was removed and comes back is compared with what it was: else two applies would do what one may not.

    Raises:
        RegistryError: the registry cannot be read.
    """
    specs = [spec for kind in ("view", "on_demand") for spec in definitions.specs[kind].values()]
    defined = {spec.name: spec for spec in specs if isinstance(spec, (ViewSpec, OnDemandSpec))}
    marked = {
        (spec.name, feature.name)
        for spec in _latest(registry)
        for feature in spec.features
        if feature.pii and spec.name in defined
    }  # fmt: skip
    return [
        f"feature {name}.{feature.name} is personal information (pii=True), and would not be any more"
        for name, spec in sorted(defined.items())
        for feature in spec.features
        if (name, feature.name) in marked and not feature.pii
    ]


def _latest(registry: SpecRegistry) -> Iterator[ViewSpec | OnDemandSpec]:
    """Yield every view that there is or was, as it was defined last."""
    spec = registry.database.tables.spec
    mine = (spec.c.project == registry.project) & spec.c.kind.in_(("view", "on_demand")) & ~spec.c.deleted
    with registry.database.reading() as connection:
        rows = connection.execute(spec.select().where(mine).order_by(spec.c.kind, spec.c.name, spec.c.version)).all()
    for row in {(row.kind, row.name): row for row in rows}.values():
        definition = from_json(row.kind, row.body)
        if isinstance(definition, (ViewSpec, OnDemandSpec)):
            yield definition
