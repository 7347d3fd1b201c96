"""Windowed views: the features that windowed attributes define, and the event columns that they need."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from featurestore.aggregates.counts import Count, CountDistinct
from featurestore.definitions.entity import RESERVED_COLUMNS, Entity
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.fingerprint import Transform
from featurestore.definitions.source import Source
from featurestore.definitions.window import Input, InputSpec, WindowedField, WindowSpec
from featurestore.dtypes import python_name
from featurestore.errors import DefinitionError, did_you_mean
from featurestore.identity import IDS, id_text, row_hash, value_text

EVENT_ID = IDS
"""The history's column that tells events apart (S9), as text."""
COPY = "_copy"
"""The history's column that numbers wholly equal rows, where there is no event id: every row counts."""
ROW_HASH = "_row_hash"
"""The column that tells rows of the source apart where there is no event id (S9).

On its way through a transform it is text of digits: hardly anything that a transform does to all its columns changes it, and
a sum over all numbers leaves it out. In the history it is 64 bits.
"""
ORDER = "_order"
"""The history's column by which rows of one key and time are ordered, where the source names one (S4)."""


@dataclass
class Inputs:
    """The inputs of a view's aggregates, each kept once; ``exact`` are those of which an aggregate shows one as it is."""

    entity: Entity | None
    source: Source | None = None
    specs: list[InputSpec] = field(default_factory=list)
    entries: list[tuple[InputSpec, Input, type]] = field(default_factory=list)
    exact: set[str] = field(default_factory=set)
    users: dict[str, str] = field(default_factory=dict)

    def add(self, family: str, given: WindowedField, result: pl.DataType) -> str:
        """Return the column that keeps the input of a windowed attribute; empty where rows are counted."""
        kind, wanted = given.aggregate, given.aggregate.input_dtype(result)
        if isinstance(kind, Count) and kind.of_rows:
            return ""
        shape = type(kind) if isinstance(kind, (Count, CountDistinct)) else object
        for spec, known, shaped in self.entries:
            if (known.digest, spec.dtype, shaped) == (given.input.digest, wanted, shape):
                if not kind.rounds:
                    self.exact.add(spec.name)
                return spec.name
        # Counting keeps something else of a column than the column, so it does not take its name.
        name = self._free(given.input.column if shape is object and given.input.column else family)
        spec = InputSpec(name, wanted, str(given.input), given.input.digest)
        self.entries.append((spec, given.input, shape))
        self.specs.append(spec)
        of = repr(given.input.column) if given.input.column else str(given.input)
        self.users[name] = f"feature {family} = {kind.name}({of})"
        if not kind.rounds:
            self.exact.add(name)
        return name

    def _free(self, name: str) -> str:
        times = () if self.source is None else self.source.time_columns
        taken = {
            *RESERVED_COLUMNS,
            EVENT_ID,
            COPY,
            ROW_HASH,
            ORDER,
            *(self.entity.keys if self.entity else ()),
            *(item.name for item in self.specs),
            *times,
        }
        lowered = {item.lower() for item in taken}
        while name.lower() in lowered or name.startswith("_"):
            name = f"{name.lstrip('_')}_input"
        return name


def windowed_features(name: str, given: WindowedField, dtype: pl.DataType, inputs: Inputs, *, nullable: bool) -> list[FeatureSpec]:
    """Return the features that a windowed attribute makes, one for each window.

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


@dataclass(frozen=True, eq=False)
class WithInputs:
    """The transform that computes, after a view's own one, the columns that its history keeps.

    Args:
        own: the view's own transform; None for none.
        source: the view's source.
        inputs: what its aggregates need.
    """

    own: Transform | None
    source: Source
    inputs: Inputs

    def __call__(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows with the aggregates' inputs, and with what tells events or rows apart (S9)."""
        given = rows.collect_schema()
        if self.source.event_id is None:
            if ROW_HASH in given:
                raise ValueError(f"the source has a column {ROW_HASH!r}, a name that is taken: rename= it.")
            rows = rows.with_columns(row_hash(given).cast(pl.String).alias(ROW_HASH))
        shaped = rows if self.own is None else self.own(rows)
        if not isinstance(shaped, pl.LazyFrame):
            return shaped
        schema = shaped.collect_schema()
        computed = [
            _computed(spec, given, kind, shaped, schema, rounded=spec.name not in self.inputs.exact)
            for spec, given, kind in self._checked(schema)
        ]
        if self.source.event_id is not None:
            self._check_there([self.source.event_id], schema, "the event id")
            computed.append(id_text(pl.col(self.source.event_id), schema[self.source.event_id]).alias(EVENT_ID))
        else:
            hashed = pl.col(ROW_HASH).cast(pl.UInt64, strict=False) if _keeps_hash(schema) else row_hash(schema)
            computed.append(hashed.fill_null(0).reinterpret(signed=True).alias(ROW_HASH))
            computed.append(pl.lit(None, pl.Int64).alias(COPY))
        return shaped.with_columns(computed)

    def _checked(self, schema: pl.Schema) -> "list[tuple[InputSpec, Input, type]]":
        for spec, given, _ in self.inputs.entries:
            needed = [
                name for expression in (given.value, given.where) if expression is not None for name in expression.meta.root_names()
            ]
            self._check_there(needed, schema, self.inputs.users.get(spec.name, f"the input {given}"))
        return self.inputs.entries

    def _check_there(self, names: Iterable[str], schema: pl.Schema, what: str) -> None:
        has_no = "the source has no" if self.own is None else "the transform returns no"
        for name in names:
            if name not in schema:
                known = [column for column in schema if column != ROW_HASH]
                raise DefinitionError(f"{what}: {has_no} column {name!r}. {did_you_mean(name, known)}")

    @property
    def is_plain(self) -> bool:
        """Whether it does no more than to take columns of the source."""
        return self.own is None and all(given.column for _, given, _ in self.inputs.entries)

    def distinguishes_rows(self, schema: pl.Schema) -> bool:
        """Return whether all columns of the source distinguish rows, rather than what the view's transform returns.

        Args:
            schema: the source's columns.
        """
        if self.own is None or self.source.event_id is not None:
            return True
        rows = pl.LazyFrame(schema={**schema, ROW_HASH: pl.String()})
        return _keeps_hash(self.own(rows).collect_schema())


_COLUMN = re.compile(r'col\("(.*)"\)', re.DOTALL)


def transform_of(source: Source, inputs: Sequence[InputSpec], features: Sequence[FeatureSpec]) -> WithInputs | None:
    """Return the transform of a windowed view without one of its own, as its definition makes it, from the view as applied.

    Args:
        source: the view's source.
        inputs: its inputs.
        features: its features.

    Returns:
        None where an input is more than a column: what it is computed by lives in the definition alone.
    """
    inputs_of_source = Inputs(None, source, list(inputs))
    for spec in inputs:
        named = _COLUMN.fullmatch(spec.expression)
        given = Input(pl.col(named[1]), None) if named else None
        if given is None or given.digest != spec.digest:
            return None
        kinds = [
            feature.window.aggregate for feature in features if feature.window is not None and feature.window.input == spec.name
        ]
        inputs_of_source.entries.append((spec, given, type(kinds[0])))
        if not all(kind.rounds for kind in kinds):
            inputs_of_source.exact.add(spec.name)
    return WithInputs(None, source, inputs_of_source)


def _keeps_hash(schema: pl.Schema) -> bool:
    return schema.get(ROW_HASH) == pl.String


def _computed(spec: InputSpec, given: Input, kind: type, rows: pl.LazyFrame, schema: pl.Schema, *, rounded: bool) -> pl.Expr:
    value = pl.lit(value=True) if given.value is None else given.value
    if kind is Count:
        value = pl.when(value.is_not_null()).then(pl.lit(value=True))
    elif kind is CountDistinct:
        dtype = rows.select(value.alias(spec.name)).collect_schema()[spec.name]
        if dtype.is_nested():
            raise TypeError(f"count_distinct takes single values, not {dtype}")
        value = value_text(value, dtype)
    elif spec.dtype.is_float() and rounded:
        dtype = rows.select(value.alias(spec.name)).collect_schema()[spec.name]
        if dtype.is_integer() or dtype.is_decimal():
            value = value.cast(spec.dtype)  # a mean may round an input that no float equals; a row is not rejected for it (S10)
    return (value if given.where is None else pl.when(given.where).then(value)).alias(spec.name)
