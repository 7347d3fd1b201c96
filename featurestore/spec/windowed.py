"""Windowed views: the features that a class's windowed attributes make, and the columns of each event that they need."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from featurestore.aggregates.counts import Count, CountDistinct
from featurestore.dtypes import python_name
from featurestore.errors import DefinitionError, did_you_mean
from featurestore.spec.entity import RESERVED_COLUMNS, Entity
from featurestore.spec.feature import FeatureSpec
from featurestore.spec.meaning import Transform
from featurestore.spec.source import Source
from featurestore.spec.window import Input, InputSpec, WindowedField, WindowSpec

EVENT_ID = "event_id"
"""The history's column that tells events apart (S9), as text."""
COPY = "_copy"
"""The history's column that numbers wholly equal rows, where there is no event id: every row counts."""


@dataclass
class Inputs:
    """The inputs of a view's aggregates, each kept once; ``exact`` are those of which an aggregate shows one as it is."""

    entity: Entity | None
    source: Source | None = None
    specs: list[InputSpec] = field(default_factory=list)
    made: list[tuple[InputSpec, Input, type]] = field(default_factory=list)
    exact: set[str] = field(default_factory=set)

    def add(self, family: str, given: WindowedField, result: pl.DataType) -> str:
        """Returns the column that keeps the input of a windowed attribute; empty where rows are counted."""
        kind, wanted = given.aggregate, given.aggregate.input_dtype(result)
        if isinstance(kind, Count) and kind.of_rows:
            return ""
        shape = type(kind) if isinstance(kind, (Count, CountDistinct)) else object
        for spec, known, shaped in self.made:
            if (known.digest, spec.dtype, shaped) == (given.input.digest, wanted, shape):
                if not kind.rounds:
                    self.exact.add(spec.name)
                return spec.name
        # Counting keeps something else of a column than the column, so it does not take its name.
        name = self._free(given.input.column if shape is object and given.input.column else family)
        spec = InputSpec(name, wanted, str(given.input), given.input.digest)
        self.made.append((spec, given.input, shape))
        self.specs.append(spec)
        if not kind.rounds:
            self.exact.add(name)
        return name

    def _free(self, name: str) -> str:
        times = () if self.source is None else self.source.time_columns
        taken = {
            *RESERVED_COLUMNS,
            EVENT_ID,
            COPY,
            *(self.entity.keys if self.entity else ()),
            *(each.name for each in self.specs),
            *times,
        }
        lowered = {each.lower() for each in taken}
        while name.lower() in lowered or name.startswith("_"):
            name = f"{name.lstrip('_')}_input"
        return name


def windowed_features(name: str, given: WindowedField, dtype: pl.DataType, inputs: Inputs, *, nullable: bool) -> list[FeatureSpec]:
    """Returns the features that a windowed attribute makes, one for each window.

    Raises:
        DefinitionError: the aggregate gives no values of the type declared, or nulls where the type has none.
    """
    if given.aggregate.empty is None and not nullable:
        declared = python_name(dtype, nullable=True)
        raise DefinitionError(f"{given.aggregate} over no events is null; declare it as {declared}.")
    column = inputs.add(name, given, dtype)
    several = len(given.windows) > 1
    return [
        FeatureSpec(
            f"{name}_{text}" if several else name, dtype, nullable, given.description, given.unit, given.owner, dict(given.tags),
            family=name, window=WindowSpec(given.aggregate, column, size, given.tile_of(size)), pii=given.pii,
        )
        for text, size in given.windows
    ]  # fmt: skip


def with_inputs(transform: Transform | None, source: Source, inputs: Inputs) -> Transform:
    """Returns the transform that computes, after the view's own one, the columns that its aggregates need."""

    def compute(rows: pl.LazyFrame) -> pl.LazyFrame:
        shaped = rows if transform is None else transform(rows)
        if not isinstance(shaped, pl.LazyFrame):
            return shaped
        schema = shaped.collect_schema()
        computed = [
            _computed(spec, given, kind, shaped, schema, rounded=spec.name not in inputs.exact) for spec, given, kind in inputs.made
        ]
        if source.event_id is not None:
            _check_there([source.event_id], schema, "the event id")
            computed.append(pl.col(source.event_id).cast(pl.String).alias(EVENT_ID))
        else:
            computed.append(pl.lit(None, pl.Int64).alias(COPY))
        return shaped.with_columns(computed)

    return compute


def _computed(spec: InputSpec, given: Input, kind: type, rows: pl.LazyFrame, schema: pl.Schema, *, rounded: bool) -> pl.Expr:
    for each in (given.value, given.where):
        if each is not None:
            _check_there(each.meta.root_names(), schema, f"the input {given}")
    value = pl.lit(value=True) if given.value is None else given.value
    if kind is Count:
        value = pl.when(value.is_not_null()).then(pl.lit(value=True))
    elif kind is CountDistinct:
        value = _as_text(value, rows.select(value.alias(spec.name)).collect_schema()[spec.name])
    elif spec.dtype.is_float() and rounded:
        found = rows.select(value.alias(spec.name)).collect_schema()[spec.name]
        if found.is_integer() or found.is_decimal():
            value = value.cast(spec.dtype)  # a mean may round an input that no float equals; a row is not rejected for it (S10)
    return (value if given.where is None else pl.when(given.where).then(value)).alias(spec.name)


def _as_text(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Returns values as text that is equal where they are."""
    if dtype.is_nested():
        raise TypeError(f"count_distinct takes single values, not {dtype}")
    if isinstance(dtype, pl.Binary):
        return value.bin.encode("hex")
    if dtype.is_float():
        # NOTE: of the two zeros one is left, and not by adding 0.0, which Polars optimizes away.
        return pl.when(value == 0).then(0.0).otherwise(value).cast(pl.String)
    if dtype.is_temporal():
        return value.to_physical().cast(pl.String)
    return value.cast(pl.String)


def _check_there(names: Iterable[str], schema: pl.Schema, what: str) -> None:
    for name in names:
        if name not in schema:
            raise KeyError(f"there is no column {name!r} for {what}. {did_you_mean(name, schema)}")
