"""Identity of values and rows (S9): when two are the same, whatever types they were read as.

Numbers are the same by value, whatever their type: ``Int32`` 1, ``Int64`` 1, ``Float64`` 1.0 and ``Decimal`` 1.00. A decimal with
a fraction is the same as the float that is written like it. Times are the same by instant, text as text, be it categorical or not.

``value_text`` says so with text, for event ids and the inputs of ``count_distinct``. A number's text has a mark before it, so that
the number 1 and the text "1" stay two, and the texts "1" and "1.0" as well. A text that begins like that gets another mark, so
that no text is ever taken for a number. Histories of before have numbers and texts without marks, as Polars writes them, "1.0"
among them; ``same_values`` and ``distinct_values`` take these for what they are where marked numbers are beside them.
``row_hash`` says it with 64 bits for a whole row.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, cast

import polars as pl
import polars_hash  # noqa: F401 - registers the `nchash` namespace: hashes with a published definition, unlike Polars' own

from featurestore.dtypes import inner_dtype
from featurestore.instants import instants

IDS = "event_id"
"""The column of a history that has event ids."""
NUMBER = "\x1f"
"""What stands before a number's text."""
TEXT = "\x1e"
"""What stands before a text that begins with one of these two."""
_BEGINS = f"^[{TEXT}{NUMBER}]"
_A_NUMBER = rf"^{NUMBER}(f?-?\d+|-?\d+\.\d+)$"
_FORMER_TEXT = f"^{TEXT}([^{TEXT}{NUMBER}]|$)"
"""A text that was stored before such texts got a mark."""
_EXACT_DIGITS = 15
"""Of so many digits each decimal number is written as the float nearest to it."""
_INT128 = 1e38
_DAY = 86_400_000_000
_WRITTEN = 345_000_000_000_000_000
"""Times within so many microseconds before and after 1970 are written out, and distinguished from others."""
_A_TIME = r"^-?\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00$"
_FORMER_TIME = r"^-?\d{4,}-\d\d-\d\d( \d\d:\d\d:\d\d\.\d{6})?$"
"""The text of an id that was a date or a time without a zone, stored before such were written in UTC."""


def value_text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    r"""Return single values as text that is equal where they are the same; null where they are null.

    Args:
        column: the values.
        dtype: their dtype.

    Raises:
        TypeError: they are not single values.

    Example:
        >>> frame = pl.DataFrame({"integer": [1], "float": [1.0], "text": ["1"]})
        >>> frame.select(value_text(pl.col(name), dtype).alias(name) for name, dtype in frame.schema.items()).row(0)
        ('\x1f1', '\x1f1', '1')
    """
    if dtype.is_nested() or isinstance(dtype, pl.Object):
        raise TypeError(f"only single values can be distinguished, not {dtype}")
    if dtype.is_numeric():
        return pl.concat_str(pl.lit(NUMBER), _number_text(column, dtype))
    if isinstance(dtype, pl.Binary):
        return column.bin.encode("hex")
    if dtype.is_temporal():
        return _micros_text(column, dtype)
    return _plain_text(column.cast(pl.String))


def id_text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return event ids as text: as ``value_text``, but that times are written out, in UTC, and bytes are read as text.

    Raises:
        TypeError: they are not single values.
    """
    if isinstance(dtype, pl.Binary):
        return _plain_text(column.cast(pl.String))
    if isinstance(dtype, (pl.Date, pl.Datetime)):
        instant = instants(column, dtype)
        written = pl.when(instant.to_physical().is_between(-_WRITTEN, _WRITTEN)).then(instant)
        return written.cast(pl.String).fill_null(column.to_physical().cast(pl.String))
    return column.cast(pl.String) if dtype.is_temporal() else value_text(column, dtype)


def same_values(frame: pl.DataFrame, columns: Iterable[str], like: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return rows with the numbers in some columns of ``value_text`` all marked, where some of them are.

    Args:
        frame: the rows.
        columns: the columns.
        like: other rows, whose numbers may be marked as well.
    """
    changed = []
    for name in columns:
        texts = frame[name]
        marked = _with_plain_texts(texts) if texts.str.contains(_BEGINS).any() else texts
        if _have(texts, _A_NUMBER) or (like is not None and _have(like[name], _A_NUMBER)):
            marked = _marked(marked)
        if name == IDS and (_have(texts, _A_TIME) or (like is not None and _have(like[name], _A_TIME))):
            marked = _with_zones(marked)
        if marked is not texts and not marked.equals(texts):
            changed.append(marked)
    return frame.with_columns(changed) if changed else frame


def _have(texts: pl.Series, form: str) -> bool:
    return bool(texts.str.contains(form).any())


def _with_zones(texts: pl.Series) -> pl.Series:
    """Return event ids with the times among them that were stored without a zone written as those with one."""
    text = pl.col(texts.name)
    whole = pl.when(text.str.contains(" ", literal=True)).then(text).otherwise(pl.concat_str(text, pl.lit(" 00:00:00.000000")))
    with_zone = pl.concat_str(whole, pl.lit("+00:00"))
    zoned = pl.when(text.str.contains(_FORMER_TIME)).then(with_zone).otherwise(text)
    return texts.to_frame().select(zoned.alias(texts.name)).to_series()


def distinct_values(values: Sequence[str]) -> int:
    r"""Return how many values some texts of ``value_text`` are.

    Example:
        >>> distinct_values(["\x1f1", "1.0", "\x1f2"]), distinct_values(["1", "1.0"])
        (2, 2)
    """
    texts = set(values)
    if texts and min(texts).startswith((TEXT, NUMBER)) and not max(texts).startswith(NUMBER):
        frame = pl.DataFrame({"texts": list(texts)}, schema={"texts": pl.String})
        return same_values(frame, ["texts"])["texts"].n_unique()
    return len(texts)


def loose_text(text: pl.Expr) -> pl.Expr:
    """Return text that is equal where ``value_text`` may be of one value, the text of before among it, and perhaps elsewhere."""
    return text.str.strip_chars_start(TEXT + NUMBER).str.strip_suffix(".0")


def row_hash(schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """Return an expression for 64 bits that tell a row from others, by all of its columns: equal for rows that are the same.

    Each value that is not null is XXH64 of its text, seeded with its column's name and its kind; a row's hash is their sum. So
    neither the columns' order nor a column of nulls makes a difference.

    Args:
        schema: the row's columns.

    Example:
        >>> rows = [pl.DataFrame({"a": [1], "b": ["x"]}), pl.DataFrame({"b": ["x"], "c": [None], "a": [1.0]})]
        >>> len({frame.select(row_hash(frame.schema)).item() for frame in rows})
        1
    """
    hashed = {name: dtype for name, dtype in schema.items() if dtype not in (pl.Null, pl.Object)}
    parts = [_value_hash(pl.col(name), dtype, name).fill_null(0) for name, dtype in hashed.items()]
    total = parts[0] if parts else pl.lit(0, pl.UInt64)
    for part in parts[1:]:
        total = total + part
    return total


def _value_hash(column: pl.Expr, dtype: pl.DataType, name: str) -> pl.Expr:
    """Return the hash of each value of a column; null for null, and for Python's objects, of which nothing is known."""
    if isinstance(dtype, (pl.List, pl.Array)):
        lists = column.arr.to_list() if isinstance(dtype, pl.Array) else column
        inner = _value_hash(pl.element(), inner_dtype(dtype), name)
        # A list's elements are told apart by their places too, and an empty list from null.
        return _hashed(lists.list.eval(inner.cast(pl.String).fill_null("-")).list.join(","), name, "list")
    if isinstance(dtype, pl.Struct):
        fields = [
            _value_hash(column.struct.field(field.name), _dtype_of(field), f"{name}.{field.name}").fill_null(0)
            for field in dtype.fields
            if _dtype_of(field) != pl.Null
        ]
        total = pl.lit(0, pl.UInt64)
        for field_hash in fields:
            total = total + field_hash
        return pl.when(column.is_not_null()).then(_hashed(total.cast(pl.String), name, "struct"))
    if isinstance(dtype, (pl.Null, pl.Object)):
        return pl.lit(None, pl.UInt64)
    if dtype.is_numeric():
        return _hashed(_number_text(column, dtype), name, "number")
    if isinstance(dtype, pl.Binary):
        return _hashed(column, name, "bytes")
    if dtype.is_temporal():
        kind = dtype.base_type().__name__.lower() if isinstance(dtype, (pl.Duration, pl.Time)) else "time"
        # NOTE: not cast to a timestamp, which panics at days that 64 bits of microseconds do not reach, PostgreSQL's infinity too.
        day = (column.to_physical().cast(pl.Int128) * _DAY).cast(pl.String)
        return _hashed(day if isinstance(dtype, pl.Date) else _micros_text(column, dtype), name, kind)
    if isinstance(dtype, pl.Boolean):
        return _hashed(column.cast(pl.String), name, "truth")
    return _hashed(column.cast(pl.String), name, "text")


def _dtype_of(field: pl.Field) -> pl.DataType:
    return field.dtype() if isinstance(field.dtype, type) else field.dtype


def _hashed(text: pl.Expr, name: str, kind: str) -> pl.Expr:
    seed = int.from_bytes(blake2b(f"{kind}\x1f{name}".encode(), digest_size=8).digest(), "big")
    return cast("pl.Expr", cast("Any", text).nchash.xxhash64(seed=seed))


def _number_text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return numbers as text: of whole ones the digits, of others the bits of the float after an ``f``."""
    if dtype.is_integer():
        return column.cast(pl.String)
    if isinstance(dtype, pl.Decimal):
        if not dtype.scale:
            return column.cast(pl.String)
        text = column.cast(pl.String).str.strip_chars_end("0").str.strip_suffix(".")
        broken = text.str.contains(".", literal=True) & (text.str.len_bytes() <= _EXACT_DIGITS)
        return pl.when(broken).then(_bits_text(column.cast(pl.Float64))).otherwise(text)
    value = column.cast(pl.Float64)
    whole = (value == value.floor()) & (value.abs() < _INT128)
    return pl.when(whole).then(value.cast(pl.Int128, strict=False).cast(pl.String)).otherwise(_bits_text(value))


def _bits_text(value: pl.Expr) -> pl.Expr:
    # NOTE: not the number written out, which differs from one version of Polars to another.
    return pl.concat_str(pl.lit("f"), value.fill_nan(float("nan")).reinterpret(dtype=pl.Int64).cast(pl.String))


def _micros_text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return times as text: of instants and durations the microseconds, and a fraction of one where there is any."""
    physical = column.to_physical()
    unit = dtype.time_unit if isinstance(dtype, (pl.Datetime, pl.Duration)) else None
    if unit == "ms":
        return (physical.cast(pl.Int128) * 1000).cast(pl.String)
    if unit == "ns":
        micros, rest = physical // 1000, physical % 1000
        return pl.when(rest == 0).then(micros.cast(pl.String)).otherwise(pl.concat_str(micros, rest, separator="."))
    return physical.cast(pl.String)


def _plain_text(text: pl.Expr) -> pl.Expr:
    """Return texts with a mark before those that begin with one."""
    return pl.when(text.str.contains(_BEGINS)).then(pl.concat_str(pl.lit(TEXT), text)).otherwise(text)


def _with_plain_texts(texts: pl.Series) -> pl.Series:
    """Return texts with the mark that those have not which were stored before there was one."""
    text = pl.col(texts.name)
    former = text.str.contains(_FORMER_TEXT) | (text.str.starts_with(NUMBER) & ~text.str.contains(_A_NUMBER))
    marked = pl.when(former).then(pl.concat_str(pl.lit(TEXT), text)).otherwise(text)
    return texts.to_frame().select(marked.alias(texts.name)).to_series()


def _marked(texts: pl.Series) -> pl.Series:
    """Return texts with the numbers among them that have no mark written with it."""
    text = pl.col(texts.name)
    number = text.cast(pl.Float64, strict=False)
    digits = text.str.contains(r"^-?(0|[1-9]\d*)$")  # of a whole number, perhaps one that no float is equal to
    written = pl.when(digits).then(text).otherwise(_number_text(number, pl.Float64()))
    marked = pl.concat_str(pl.lit(NUMBER), written)
    is_number = ~text.str.starts_with(NUMBER) & number.is_not_null()
    return texts.to_frame().select(pl.when(is_number).then(marked).otherwise(text).alias(texts.name)).to_series()
