"""Request fields: validated in the same way in a spine and in the rows of an online read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from struct import Struct
from typing import Any

import polars as pl

from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.request import RequestField
from featurestore.dtypes import fits
from featurestore.errors import RequestError, did_you_mean
from featurestore.rows.python_values import values_of
from featurestore.rows.transform import broken_constraints, fitted


@dataclass(frozen=True)
class RequestColumn:
    """A request's field that is needed.

    Args:
        name: the name of the column that it adds.
        field: the field.
        request: the request's name.
        needed_by: the features that need it.
    """

    name: str
    field: RequestField
    request: str
    needed_by: tuple[str, ...]

    @property
    def said(self) -> str:
        """The field, its type, where it comes from and who needs it, for messages."""
        return f"{self.field.name!r} ({self.field.type_name}, of request {self.request!r}, needed by {', '.join(self.needed_by)})"

    @cached_property
    def conditions(self) -> tuple[tuple[pl.Expr, str], ...]:
        """When a value breaks a constraint, and what to say then."""
        return constraints_of(self.field, self.field.name)

    @property
    def default(self) -> pl.Series:
        """The default, as a column of one row."""
        return pl.Series(self.field.name, [self.field.default], dtype=self.field.dtype)

    def lacking(self, where: str, there: Sequence[str], row: int | None = None) -> RequestError:
        """Return the error of its not being there."""
        name = self.field.name
        return RequestError(f"{where} no request field {self.said}. {did_you_mean(name, there)}", row=row, column=name)

    def checked(self, given: pl.Series, start: int = 0) -> pl.Series:
        """Return a column of values as the field's dtype, each checked.

        Args:
            given: the values; their dtype fits the field's.
            start: the number of the first row, for messages.

        Raises:
            RequestError: a value does not fit, is null or breaks a constraint; names the first such row.
        """
        field = self.field
        values = given.alias(field.name)
        if values.dtype != field.dtype or field.dtype.is_temporal():
            value, unfit = fitted(pl.col(field.name), values.dtype, field.dtype)
            if unfit is not None:
                self._refuse(values, given, [(unfit, self._unfit)], start)
            values = values.to_frame().select(value.alias(field.name)).to_series()
        if not field.nullable and values.null_count():
            self._refuse(values, given, [(pl.col(field.name).is_null(), self._unfit)], start)
        self._refuse(values, given, self.conditions, start)
        return values

    @property
    def _unfit(self) -> str:
        return f"does not fit {self.field.type_name}"

    def _refuse(self, values: pl.Series, given: pl.Series, conditions: Sequence[tuple[pl.Expr, str]], start: int) -> None:
        broken = first_broken(values.to_frame(), conditions)
        if broken is not None:
            row, reason = broken
            raise RequestError(
                f"Row {start + row}: the request field {self.said} is {values_of(given[row : row + 1])[0]!r}, which {reason}.",
                row=start + row,
                column=self.field.name,
            )


def first_broken(frame: pl.DataFrame, conditions: Sequence[tuple[pl.Expr, str]]) -> tuple[int, str] | None:
    """Return the first row that meets one of some conditions, and what that condition says; None where none does."""
    if not conditions:
        return None
    met = frame.select_seq([condition.fill_null(value=False).alias(str(n)) for n, (condition, _) in enumerate(conditions)])
    rows = [(int(rows[0]), reason) for column, (_, reason) in zip(met, conditions, strict=True) if len(rows := column.arg_true())]
    return min(rows, default=None)


def constraints_of(feature: FeatureSpec, column: str) -> tuple[tuple[pl.Expr, str], ...]:
    """Return when a column's values break a feature's constraints, and what to say then: "breaks ge=0"."""
    return tuple(
        (broken, reason.removeprefix(f"{column} ")) for broken, reason in broken_constraints(replace(feature, name=column))
    )


def spine_fields(fields: Sequence[RequestColumn], spine: pl.DataFrame, start: int = 0) -> dict[str, pl.Series]:
    """Return the columns that request fields make of a spine's rows, by their names.

    Raises:
        RequestError: a row's value does not fit, is null or breaks a constraint.
    """
    columns = {}
    for column_spec in fields:
        there = column_spec.field.name in spine.columns
        column = (
            column_spec.checked(spine[column_spec.field.name], start)
            if there
            else column_spec.default.new_from_index(0, spine.height)
        )
        columns[column_spec.name] = column.alias(column_spec.name)
    return columns


def check_fields(fields: Sequence[RequestColumn], schema: Mapping[str, pl.DataType]) -> None:
    """Refuse a spine that lacks a request's field, or has one of a dtype that does not fit.

    Raises:
        RequestError: it does; names the field and who needs it.
    """
    for column_spec in fields:
        name, dtype = column_spec.field.name, column_spec.field.dtype
        if name not in schema:
            if column_spec.field.required:
                raise column_spec.lacking("The spine has", list(schema))
        elif not fits(schema[name], dtype):
            raise RequestError(
                f"The spine's column {name!r} is {schema[name]}, which does not fit the request field {column_spec.said}. "
                f"Cast it first: pl.col({name!r}).cast(pl.{dtype}).",
                column=name,
            )


def row_fields(fields: Sequence[RequestColumn], rows: Sequence[Mapping[str, Any]]) -> dict[str, pl.Series]:
    """Return the columns that request fields make of the rows of an online read, by their names.

    Raises:
        RequestError: a row lacks a field that has no default, or its value is of another type, is null or breaks a
            constraint; names the row, the field, what was found and who needs it.
    """
    columns = {}
    for column_spec in fields:
        name = column_spec.field.name
        try:
            values = [row[name] for row in rows]
        except (KeyError, TypeError):
            values = _with_defaults(column_spec, rows)
        columns[column_spec.name] = _column(column_spec, values)
    return columns


def _with_defaults(column: RequestColumn, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    name = column.field.name
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise RequestError(f"Row {number} is {row!r}, not a dictionary of columns.", row=number)
        if name not in row and column.field.required:
            raise column.lacking(f"Row {number} has", [str(key) for key in row], number)
    return [row.get(name, column.field.default) for row in rows]


def _column(column: RequestColumn, values: list[Any]) -> pl.Series:
    dtype = column.field.dtype
    kinds = set(map(type, values))
    if dtype.is_float() and int in kinds and kinds <= _NUMBERS:
        floats = [_as_float(value, dtype) for value in values]
        if None not in floats:
            values, kinds = floats, {float}
    plain = kinds <= _PLAIN.get(dtype.base_type(), frozenset())
    if plain or len(kinds) == 1:
        try:
            given = pl.Series(column.name, values, dtype=dtype if plain else None)
        except _UNREADABLE:
            pass  # one of them is beyond the type; told below, with its row
        else:
            if plain and not column.conditions:
                return given
            if fits(given.dtype, dtype):
                return column.checked(given).alias(column.name)
    parts = [_value(column, value, number) for number, value in enumerate(values)]
    return pl.concat(parts) if parts else pl.Series(column.name, [], dtype=dtype)


_PLAIN: dict[Any, frozenset[type]] = {
    pl.Boolean: frozenset({bool}),
    pl.Float64: frozenset({float}),
    pl.Int64: frozenset({int}),
    pl.Int32: frozenset({int}),
    pl.String: frozenset({str}),
}
"""The Python types whose values are a column of a dtype without more ado; others are looked at more closely."""

_NUMBERS = frozenset({int, float})
# A number that Polars cannot hold is a RuntimeError of its bindings, a decimal that is none a panic, which is no Exception.
_UNREADABLE = (
    pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, ArithmeticError, RuntimeError,
)  # fmt: skip
_FLOAT32 = Struct("<f")


def _as_float(number: float, dtype: pl.DataType) -> float | None:
    """Return a number as a float; None where it is an integer that would not be the same number in the dtype (S22)."""
    if type(number) is float:
        return number
    try:
        converted = float(number)
        kept = _FLOAT32.unpack(_FLOAT32.pack(converted))[0] if isinstance(dtype, pl.Float32) else converted
    except OverflowError:
        return None
    return converted if kept == number else None


def _value(column: RequestColumn, value: Any, number: int) -> pl.Series:
    """Return one row's value, checked as a spine's column of one row is."""
    try:
        given = pl.Series(column.field.name, [value])
        fit = fits(given.dtype, column.field.dtype)
    except _UNREADABLE:
        fit = False
    if not fit:
        kind = type(value).__name__
        raise RequestError(
            f"Row {number}: the request field {column.said} is {value!r}, of type {kind}.", row=number, column=column.field.name
        )
    return column.checked(given, number).alias(column.name)
