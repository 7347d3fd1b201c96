"""Hive partitions: columns from a file's path (``day=2013-01-01/hour=7/…``)."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import polars as pl

from featurestore.instants import INSTANT, parse_times

_NULL = "__HIVE_DEFAULT_PARTITION__"
_FORMS: tuple[tuple[str, Callable[[pl.Series], pl.Series]], ...] = (
    (r"^[-+]?\d+$", lambda texts: texts.cast(pl.Int64, strict=False)),
    (r"^[-+]?\d*\.?\d+([eE][-+]?\d+)?$", lambda texts: texts.cast(pl.Float64, strict=False)),
    (r"^(true|false)$", lambda texts: texts == "true"),
    (r"^\d{4}-\d{2}-\d{2}$", lambda texts: texts.str.to_date("%Y-%m-%d", strict=False)),
    (r"^\d{4}-\d{2}-\d{2}[T ]", parse_times),
)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition column: its dtype, and the value that each text in a path stands for."""

    dtype: pl.DataType
    values: dict[str, Any]

    def literal(self, text: str) -> pl.Expr:
        """Return the value of a text as a column."""
        return pl.lit(self.values[text], dtype=self.dtype)

    def reads(self, text: str) -> bool:
        """Return whether a text could be read as the partition's type."""
        return text == _NULL or self.values[text] is not None


def partition_texts(name: str) -> dict[str, str]:
    """Return the partition columns of a file's path and their values' texts.

    Example:
        >>> partition_texts("data/day=2013-01-01/x.parquet")
        {'day': '2013-01-01'}
    """
    pairs = [part.partition("=") for part in PurePosixPath(name).parts[:-1]]
    return {unquote(column): unquote(text) for column, equals, text in pairs if equals and column}


def partitions(
    names: Iterable[str], declared: Mapping[str, pl.DataType] | None = None, times: Collection[str] = ()
) -> dict[str, Partition]:
    """Return the partition columns of files, in the types declared, or in that which Polars infers of a CSV column.

    Args:
        names: the files' names.
        declared: the types of some columns; a text that cannot be read as its column's type is null.
        times: columns that tell time, if any of their texts does; then others are null.

    Example:
        >>> partitions(["d=1/x.parquet", "d=20/x.parquet"])["d"].dtype
        Int64
        >>> partitions(["d=01/x.parquet", "d=20/x.parquet"], {"d": pl.String()})["d"].values["01"]
        '01'
    """
    texts: dict[str, dict[str, None]] = {}
    for name in names:
        for column, text in partition_texts(name).items():
            texts.setdefault(column, {})[text] = None
    columns = {column: _typed(list(values), (declared or {}).get(column)) for column, values in texts.items()}
    for column in columns.keys() & set(times):
        instants = _typed(list(texts[column]), INSTANT)
        if isinstance(columns[column].dtype, pl.String) and any(value is not None for value in instants.values.values()):
            columns[column] = instants
    return columns


def _typed(texts: list[str], declared: pl.DataType | None) -> Partition:
    known = pl.Series([text for text in texts if text != _NULL], dtype=pl.String)
    typed = known
    if declared is not None:
        typed = _as_declared(known, declared)
    else:
        for form, parse in _FORMS:
            if len(known) and known.str.contains(form).all():
                parsed = parse(known)
                # Where two texts would be one value, 01 and 1, they are no numbers.
                several = parsed.dtype.is_numeric() and parsed.n_unique() < known.n_unique()
                if not parsed.null_count() and not several:
                    typed = parsed
                    break
    return Partition(typed.dtype, {**dict(zip(known.to_list(), typed.to_list(), strict=True)), _NULL: None})


def _as_declared(texts: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Return texts as a type; null where they are none of it. A type that no text can have leaves them as they are."""
    if isinstance(dtype, pl.Datetime):
        return parse_times(texts)
    if isinstance(dtype, pl.Date):
        return texts.str.to_date("%Y-%m-%d", strict=False)
    if isinstance(dtype, pl.Boolean):
        lowered = texts.str.to_lowercase()
        return pl.select(pl.when(pl.lit(lowered.is_in(["true", "false"]))).then(pl.lit(lowered == "true"))).to_series()
    if isinstance(dtype, pl.Binary):
        return texts.cast(pl.Binary)
    if dtype.is_numeric():
        return texts.cast(dtype, strict=False)
    return texts
