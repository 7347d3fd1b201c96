"""Notices of sources before a view depends on them: how corrected, deleted and late rows are treated."""

from collections.abc import Iterator, Mapping

import polars as pl

from featurestore.clock import format_duration
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.source import FrameSource, SQLSource
from featurestore.definitions.stream_source import StreamSource
from featurestore.dtypes import inner_dtype


def source_notices(view: ViewSpec) -> Iterator[str]:
    """Return what a view's source does not tell, and what follows from it, a line each.

    Args:
        view: the view.
    """
    source = view.source
    if isinstance(source, (StreamSource, FrameSource)):
        return
    if source.event_id is None and view.windows:
        yield (
            f"view {view.name!r}: source {source.name!r} names no event_id=: a row corrected in place counts twice, and one "
            "that is deleted stays."
        )
    elif source.event_id is None and source.available_time is None and source.order_by is None:
        yield (
            f"view {view.name!r}: source {source.name!r} names no available_time= or order_by=: of a row corrected in place the "
            "greater value is served, a deleted one stays."
        )
    if isinstance(source, SQLSource) and source.available_time is None and source.lateness is None:
        late = format_duration(source.lateness_micros)
        yield (
            f"source {source.name!r} tells what is new by the event time alone: a row that arrives more than {late} after it is "
            "not found. Say how late rows may be: lateness=, or name an available_time=."
        )


def decimal_notices(view: ViewSpec, schema: Mapping[str, pl.DataType]) -> Iterator[str]:
    """Return where a source's decimals meet floats or integers, a line each: what these cannot hold exactly rejects its row (S22).

    Args:
        view: the view.
        schema: the columns that its rows have before they are shaped.

    Example:
        >>> from datetime import datetime
        >>> from featurestore import Entity, FeatureView, FrameSource
        >>> rows = pl.DataFrame({"k": ["a"], "at": [datetime(2026, 3, 1)], "price": ["0.10"]})
        >>> class Prices(FeatureView, entity=Entity("thing", k=str), source=FrameSource("sales", rows, event_time="at")):
        ...     price: float
        >>> [notice] = decimal_notices(Prices.__view__, {"price": pl.Decimal(10, 2)})
        >>> print(notice.partition(":")[0])
        view 'prices' declares 'price' as Float64, and source 'sales' has Decimal(precision=10, scale=2)
    """
    for name, wanted in {**view.entity.keys, **view.stored_schema}.items():
        actual, dtype = _number_of(schema.get(name)), _number_of(wanted)
        if not isinstance(actual, pl.Decimal) or not actual.scale or dtype is None:
            continue
        if dtype.is_float():
            what, cast = "most fractions, as 0.10, equal no float, so their rows are rejected", "double precision"
        elif dtype.is_integer():
            what, cast = "rows with a fraction are rejected", "bigint"
        else:
            continue
        yield (
            f"view {view.name!r} declares {name!r} as {dtype}, and source {view.source.name!r} has {actual}: {what} "
            f"(S22). Declare it as it is, Annotated[Decimal, pl.Decimal({actual.precision}, {actual.scale})], or round where "
            f'that is meant: in the transform, pl.col("{name}").cast(pl.{dtype}), or in a query, cast({name} as {cast}).'
        )


def _number_of(dtype: pl.DataType | None) -> pl.DataType | None:
    """Return the dtype of a column's numbers: its own, or that of a list's elements."""
    return inner_dtype(dtype) if isinstance(dtype, (pl.List, pl.Array)) else dtype
