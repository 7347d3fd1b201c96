"""Hive partitions: the columns that a file's path tells (``day=2013-01-01/hour=7/…``)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import polars as pl

from featurestore.clock import parse_times

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
        """Returns the value of a text as a column."""
        return pl.lit(self.values[text], dtype=self.dtype)


def partition_texts(name: str) -> dict[str, str]:
    """Returns the partition columns of a file's path and their values' texts.

    Example:
        >>> partition_texts("data/day=2013-01-01/x.parquet")
        {'day': '2013-01-01'}
    """
    pairs = [part.partition("=") for part in PurePosixPath(name).parts[:-1]]
    return {unquote(column): unquote(text) for column, equals, text in pairs if equals and column}


def partitions(names: Iterable[str]) -> dict[str, Partition]:
    """Returns the partition columns of files, their types inferred over all of them as Polars infers a CSV column's.

    Example:
        >>> partitions(["d=1/x.parquet", "d=20/x.parquet"])["d"].dtype
        Int64
    """
    texts: dict[str, dict[str, None]] = {}
    for name in names:
        for column, text in partition_texts(name).items():
            texts.setdefault(column, {})[text] = None
    return {column: _typed(list(each)) for column, each in texts.items()}


def _typed(texts: list[str]) -> Partition:
    known = pl.Series([text for text in texts if text != _NULL], dtype=pl.String)
    typed = known
    for form, parse in _FORMS:
        if len(known) and known.str.contains(form).all():
            parsed = parse(known)
            if not parsed.null_count():
                typed = parsed
                break
    return Partition(typed.dtype, {**dict(zip(known.to_list(), typed.to_list(), strict=True)), _NULL: None})
