"""Expressions of on-demand features: as Polars expressions, as text, and as stored in the registry."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from typing import Any

import polars as pl

from featurestore.definitions.expression_safety import ForbiddenPartError, check_serialized
from featurestore.errors import DefinitionError, RegistryError

ROW_LOCAL_HINT = (
    "One request is one row, and its features must be those of the same row among a million: an expression may compute, compare, "
    "choose and look into lists and texts, but not aggregate, sort, shift or window over rows. What aggregates over rows is a "
    "windowed feature."
)


@dataclass(frozen=True)
class Expression:
    """A Polars expression as the registry keeps it.

    Args:
        text: as Polars prints it, for people.
        serialized: as Polars writes it in JSON; another version of Polars may not read it.
        columns: the columns it uses, each once.

    Example:
        >>> read_expression(pl.col("distance") > 1000).columns
        ('distance',)
    """

    text: str
    serialized: str
    columns: tuple[str, ...]

    @property
    def polars(self) -> pl.Expr:
        """The expression itself.

        Raises:
            RegistryError: this version of Polars cannot read it, or it holds what could run code.
        """
        return _deserialized(self.serialized)


def read_expression(given: Any) -> Expression:
    """Return an expression that is given in a definition.

    Raises:
        DefinitionError: it is not an expression, uses columns that it does not name one by one, or none, calls Python, or
            is not row-local, as far as Polars can tell without columns.
    """
    if not isinstance(given, pl.Expr):
        raise DefinitionError(f"its expression is {given!r}; write a Polars expression: Feature(pl.col(…) > 1000).")
    for part in _parts(given):
        _check_local(given, part)
    columns = tuple(dict.fromkeys(given.meta.root_names()))
    try:
        serialized = given.meta.serialize(format="json")
    except (pl.exceptions.ComputeError, TypeError) as error:
        raise DefinitionError(f"its expression {given} cannot be written down: {_PYTHON}") from error
    try:
        check_serialized(serialized)
    except ForbiddenPartError as error:  # with the library cloudpickle installed, Polars writes a Python function as a pickle
        reason = _PYTHON if error.is_python else f"it holds {error.part}, which may not be kept. Say it with Polars' own functions."
        raise DefinitionError(f"its expression {given} cannot be kept: {reason}") from error
    if not columns:
        raise DefinitionError(f"its expression {given} uses none of the inputs, so it is not a feature of a row.")
    return Expression(str(given), serialized, columns)


_PYTHON = "it calls Python, which a process without the definitions has not. Say it with Polars' own functions."


def _parts(expression: pl.Expr) -> Iterator[pl.Expr]:
    yield expression
    for part in expression.meta.pop():
        yield from _parts(part)


def _check_local(whole: pl.Expr, part: pl.Expr) -> None:
    try:
        # What uses no column is constant, or works on the elements of one list.
        local = part.meta.is_row_separable() and part.meta.is_length_preserving()
        local = local or not part.meta.root_names()
    except pl.exceptions.InvalidOperationError as error:
        raise DefinitionError(
            f"its expression {whole} chooses columns by a pattern or a selector; name them one by one: pl.col('gusty')."
        ) from error
    except pl.exceptions.PolarsError:
        return  # it depends on the columns' types; the trial at apply tells
    if not local:
        where = "" if str(part) == str(whole) else f", a part of {whole},"
        raise DefinitionError(f"its expression {part}{where} is not row-local (S20). {ROW_LOCAL_HINT}")


@lru_cache(maxsize=4096)
def _deserialized(serialized: str) -> pl.Expr:
    try:
        check_serialized(serialized)
        return pl.Expr.deserialize(StringIO(serialized), format="json")
    except ForbiddenPartError as error:
        if not error.is_code:
            raise RegistryError(_unreadable(f"it holds {error.part}")) from error
        what = "a Python function" if error.is_python else error.part
        raise RegistryError(
            f"An expression in the registry holds {what}, which featurestore never writes there: reading it could run code. "
            "Find out who may write to the registry, and apply the definitions again (featurestore apply)."
        ) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RegistryError(_unreadable(str(error).partition("\n")[0])) from error


def _unreadable(reason: str) -> str:
    return (
        f"An expression in the registry cannot be read by this version of Polars ({pl.__version__}): {reason}. Apply the "
        "definitions again with the version that is used here (featurestore apply)."
    )
