"""Evaluation of on-demand features: from available columns, in the order of their dependencies.

The same steps run on a training spine and on the rows of an online read; nothing here knows which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import polars as pl

from featurestore.access.redaction import described
from featurestore.definitions.expression import Expression
from featurestore.definitions.feature import FeatureSpec
from featurestore.dtypes import inner_dtype
from featurestore.errors import RequestError
from featurestore.rows.python_values import values_of
from featurestore.rows.transform import fitted
from featurestore.selection.request_fields import RequestColumn, constraints_of, first_broken

_MANY_ROWS = 10_000
"""From how many rows on the expressions of a view are computed side by side: for fewer, threads cost more than they save."""


def evaluate(columns: Sequence[pl.Series], expressions: Sequence[pl.Expr]) -> pl.DataFrame:
    """Return what row-local expressions make of columns: of each row the same, bit for bit, however many rows there are.

    NOTE: Polars takes a column of one row for a constant, and computes otherwise with constants: a column is divided by 3
    by multiplying it with a third, a constant is divided, which may differ in the last bit. It also adds up otherwise where a
    null is anywhere in the column or in a list of whichever row, and where there are nulls alone. So two other rows stand below
    them: one of nulls, and one that has numbers too.

    Raises:
        polars.exceptions.PolarsError: an expression fails.
    """
    rows = columns[0].len()
    try:
        return _select([_with_nulls(column) for column in columns], expressions).head(rows)
    except pl.exceptions.PolarsError:
        pass  # it may be one of those rows; if not, it fails again
    if rows == 1:
        return _select([column.new_from_index(0, 2) for column in columns], expressions).head(1)
    return _select(columns, expressions)


def _select(columns: Sequence[pl.Series], expressions: Sequence[pl.Expr]) -> pl.DataFrame:
    frame = pl.DataFrame(columns)
    return frame.select(expressions) if frame.height > _MANY_ROWS else frame.select_seq(expressions)


def _with_nulls(column: pl.Series) -> pl.Series:
    """Return a column and, after its rows, a null and a zero; of lists two of nulls that are longer than the first."""
    if column.dtype.is_nested():
        return pl.concat([column, _list_of_nulls(column).new_from_index(0, 2)], rechunk=True)
    return column.clone().append(_null_and_zero(column.dtype))


@lru_cache(maxsize=256)
def _null_and_zero(dtype: pl.DataType) -> pl.Series:
    return pl.Series([None, 0 if dtype.is_numeric() else None]).cast(dtype)


def _list_of_nulls(column: pl.Series) -> pl.Series:
    dtype = column.dtype
    if isinstance(dtype, pl.Array):
        return pl.Series(column.name, [_nulls(dtype)], dtype=dtype)
    inner = column.drop_nulls().head(1).explode()
    last = _list_of_nulls(inner) if inner.dtype.is_nested() else pl.Series([None], dtype=inner.dtype)
    return last.new_from_index(0, inner.len() + 1).implode().alias(column.name).cast(dtype)


def _nulls(dtype: pl.DataType) -> Any:
    """Return a list or vector of nulls, as deep as a dtype."""
    if isinstance(dtype, pl.Array):
        return [_nulls(inner_dtype(dtype))] * dtype.size
    return [_nulls(inner_dtype(dtype))] if isinstance(dtype, pl.List) else None


@dataclass(frozen=True)
class OutputColumn:
    """A feature that is computed.

    Args:
        name: the column it makes.
        feature: the feature.
        expression: what computes it.
    """

    name: str
    feature: FeatureSpec
    expression: Expression


@dataclass(frozen=True)
class OnDemandStep:
    """The features of one on-demand view that are computed.

    Args:
        view: the view.
        inputs: the name of each column in the expressions, and the available column, with its dtype.
        outputs: the features.
        personal: whether it computes from personal features, so that errors tell no values.
    """

    view: str
    inputs: tuple[tuple[str, str, pl.DataType], ...]
    outputs: tuple[OutputColumn, ...]
    personal: bool = False

    def run(self, columns: Mapping[str, pl.Series], start: int) -> dict[str, pl.Series]:
        """Return the features computed from the available columns.

        Raises:
            RequestError: an expression fails, or makes a value that its feature cannot have.
        """
        used = [columns[column] if column == name else columns[column].alias(name) for name, column, _ in self.inputs]
        try:
            computed = evaluate(used, self._expressions)
            checks = self._checks
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            row = None if (failing := self._failing(used)) is None else start + failing
            where = "" if row is None else f"Row {row}: "
            reason = described(error) if self.personal else str(error).splitlines()[0]
            failure = RequestError(f"{where}on-demand view {self.view!r} fails: {reason}", row=row)
            if not self.personal:
                raise failure from error
        else:
            return self._checked(computed, checks, start)
        raise failure  # outside of the handler, so that a traceback does not print the library's text

    def _checked(self, computed: pl.DataFrame, checks: "list[_Check]", start: int) -> dict[str, pl.Series]:
        for output, value, unfit, constraints in checks:
            self._refuse(computed, output, unfit, start)
            if value is not None:
                computed = computed.with_columns(value.alias(output.name))
            self._refuse(computed, output, constraints, start)
        return {column.name: column for column in computed.get_columns()}

    def _failing(self, columns: Sequence[pl.Series]) -> int | None:
        """Return the first row on which an expression fails; None where there are too many rows to try each."""
        for row in range(columns[0].len() if columns[0].len() <= _MANY_ROWS else 0):
            try:
                evaluate([column[row : row + 1] for column in columns], self._expressions)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
                return row
        return None

    @cached_property
    def _expressions(self) -> list[pl.Expr]:
        return [output.expression.polars.alias(output.name) for output in self.outputs]

    @cached_property
    def _checks(self) -> list["_Check"]:
        """What is to be done with outputs whose dtype is another than the feature's, or that have constraints."""
        schema = pl.DataFrame(schema={name: dtype for name, _, dtype in self.inputs}).select_seq(self._expressions).schema
        checks: list[_Check] = []
        for output in self.outputs:
            actual, wanted = schema[output.name], output.feature.dtype
            value, unfit = fitted(pl.col(output.name), actual, wanted)
            unfits = () if unfit is None else ((unfit, f"does not fit {output.feature.type_name}"),)
            constraints = constraints_of(output.feature, output.name)
            if actual != wanted or unfits or constraints:
                checks.append((output, value if actual != wanted else None, unfits, constraints))
        return checks

    def _refuse(self, computed: pl.DataFrame, output: OutputColumn, conditions: Sequence[tuple[pl.Expr, str]], start: int) -> None:
        broken = first_broken(computed, conditions)
        if broken is not None:
            row, reason = broken
            said, [value] = f"{self.view}.{output.feature.name}", values_of(computed[output.name][row : row + 1])
            what = "comes to a value that" if self.personal else f"comes to {value!r}, which"
            raise RequestError(
                f"Row {start + row}: the feature {said} {what} {reason}. Mend the row, or what is declared.",
                row=start + row, column=output.name,
            )  # fmt: skip


_Check = tuple[OutputColumn, pl.Expr | None, Sequence[tuple[pl.Expr, str]], Sequence[tuple[pl.Expr, str]]]
"""An output; its value in the feature's dtype, where it has another; when that does not fit; when it breaks a constraint."""


@dataclass(frozen=True)
class OnDemandPlan:
    """What is computed from the available columns.

    Args:
        fields: what the caller has to bring.
        steps: what is computed, each after what it needs.
    """

    fields: tuple[RequestColumn, ...] = ()
    steps: tuple[OnDemandStep, ...] = ()

    @property
    def outputs(self) -> tuple[OutputColumn, ...]:
        """Every feature that is computed, in the order in which they are."""
        return tuple(output for step in self.steps for output in step.outputs)

    def run(self, columns: Mapping[str, pl.Series], start: int = 0) -> dict[str, pl.Series]:
        """Return the columns that are computed, by name.

        Args:
            columns: the features that were found and the fields of requests, by name.
            start: the number of the first row, for messages.

        Raises:
            RequestError: an expression fails, or makes a value that its feature cannot have.
        """
        known = dict(columns)
        computed: dict[str, pl.Series] = {}
        for step in self.steps:
            new = step.run(known, start)
            known |= new
            computed |= new
        return computed
