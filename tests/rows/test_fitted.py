"""A value stays the value it is, or its row is rejected and no other (S19, S22): casts, against plain Python."""

from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings

from featurestore.definitions.request import RequestField
from featurestore.errors import RequestError
from featurestore.rows.transform import fitted
from featurestore.selection.request_fields import RequestColumn, row_fields
from tests.effort import examples
from tests.numbers import REJECTED, becomes, columns, same

D, F64, F32 = pl.Decimal, pl.Float64(), pl.Float32()


def differences(found: pl.DataType, wanted: pl.DataType, values: list[Any]) -> list[Any]:
    """The values that do not become what S22 says."""
    value, unfit = fitted(pl.col("x"), found, wanted)
    frame = pl.DataFrame([pl.Series("x", values, dtype=found)])
    made = frame.select(value.alias("x"))["x"]
    rejected = [False] * len(values) if unfit is None else frame.select(unfit.fill_null(value=False)).to_series().to_list()
    assert made.dtype == wanted, (found, wanted, values)
    wrong = []
    for given_, got, refused in zip(values, made.to_list(), rejected, strict=True):
        right = becomes(given_, found, wanted)
        if not (refused if right is REJECTED else not refused and same(got, right)):
            wrong.append((given_, got, refused, right))
    return wrong


@settings(max_examples=examples(300))
@given(columns())
@example((pl.Int64(), F64, [2**53 + 1, 2**63 - 1, -(2**63), 2**53]))
@example((pl.UInt64(), F64, [2**64 - 1, 2**63]))
@example((pl.Int32(), F32, [2**31 - 1, 2**24, 2**24 + 1]))
@example((D(38, 0), F64, [Decimal(2**53 + 1), Decimal(2**53)]))
@example((D(38, 2), F64, [Decimal("0.25"), Decimal("0.10")]))
@example((F64, D(10, 2), [1.0, 99999999.996, 1.345, 1.355, 2.675]))
@example((F32, D(5, 2), [999.996, 1.11]))
@example((D(38, 2), D(5, 1), [Decimal("5.55"), Decimal("5.50"), Decimal("99999.90")]))
@example((pl.Array(pl.Array(D(38, 0), 1), 1), pl.List(pl.List(F32)), [[[None]]]))
@example((pl.List(pl.Int64()), pl.List(F64), [[2**53 + 1], [1, None], []]))
def test_s22_a_value_stays_the_value_it_is_or_is_rejected_alone(column: tuple[pl.DataType, pl.DataType, list[Any]]) -> None:
    assert not differences(*column)


def field(dtype: pl.DataType) -> RequestColumn:
    return RequestColumn("x", RequestField("x", dtype, nullable=True), "r", ("v.f",))


@settings(max_examples=examples(100))
@given(columns())
@example((pl.Int64(), F32, [2**31 - 1, 2**24 + 1]))
@example((pl.Int64(), F32, [2**24]))
def test_s22_a_request_field_is_checked_as_a_spines_column_is(column: tuple[pl.DataType, pl.DataType, list[Any]]) -> None:
    """As Python values, one request after the other and all at once; ints among floats too."""
    found, wanted, values = column
    nested = isinstance(found, (pl.List, pl.Array))
    if nested or found in (pl.Int128(), pl.UInt128(), F32) or (found.is_decimal() and not wanted.is_decimal()):
        return  # Python's values do not say that they are these
    asked = field(wanted)
    right = [becomes(each, found, wanted) for each in values]
    for each, expected in zip(values, right, strict=True):
        if expected is REJECTED:
            with pytest.raises(RequestError, match="Row 0: the request field 'x'"):
                row_fields([asked], [{"x": each}])
        else:
            assert same(row_fields([asked], [{"x": each}])["x"].to_list(), [expected])
    if REJECTED in right:
        with pytest.raises(RequestError, match=f"Row {right.index(REJECTED)}: the request field 'x'"):
            row_fields([asked], [{"x": each} for each in values])
    else:
        assert same(row_fields([asked], [{"x": each} for each in values])["x"].to_list(), right)


@pytest.mark.parametrize(("dtype", "whole"), [(F64, 2**53), (F32, 2**24)])
def test_s22_integers_among_floats_are_not_rounded(dtype: pl.DataType, whole: int) -> None:
    rows = [{"x": 1.5}, {"x": whole}]
    assert row_fields([field(dtype)], rows)["x"].to_list() == [1.5, float(whole)]
    with pytest.raises(RequestError, match="Row 2: the request field 'x'"):
        row_fields([field(dtype)], [*rows, {"x": whole + 1}])
