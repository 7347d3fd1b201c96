"""Buckets: the part of a history that an entity's rows lie in, equal on every machine and in every version.

A bucket is a node of a binary tree over the hash of the join keys: node 1 holds everything, the children of node ``n`` are
``2n`` and ``2n + 1``. A history of ``2**bits`` buckets uses the nodes from ``2**bits`` on. A node says by itself how deep
it lies, so a history can be split further as it grows without a word stored elsewhere. Few rows need not be spread over all
buckets: they may lie at a node above, whose rows are those of all buckets below it.
"""

from collections.abc import Mapping
from typing import Any, cast

import polars as pl
import polars_hash  # noqa: F401 - registers the `nchash` namespace: hashes with a published definition, unlike Polars' own

ROOT = 1
ROWS_PER_BUCKET = 1_000_000
"""About how many rows a bucket may have: the unit of memory and of work."""
MOST_BITS = 14
"""A history is split no deeper: more buckets than 16,384 would have more files than opening it is worth. They grow beyond."""
ROWS_PER_FILE = 32_768
"""About how many rows a file must have for it to be worth a file: fewer are kept together, above their buckets."""
LARGER_OBJECTS = 8
"""So many times as many where a file costs a request: 262,144 rows of ten features are some 25 MB."""
_SEPARATOR = "\x1f"


def bits_for(rows: int, rows_per_bucket: int = ROWS_PER_BUCKET) -> int:
    """Return how many bits of the hash a history of so many rows is split by.

    Example:
        >>> bits_for(10_000), bits_for(10_000_000), bits_for(100_000_000_000)
        (0, 4, 14)
    """
    return min(MOST_BITS, max(0, (rows - 1) // rows_per_bucket).bit_length())


def bits_of(node: int) -> int:
    """Return how deep a node lies."""
    return node.bit_length() - 1


def rows_per_file(rows: int, bits: int, *, is_local: bool = True) -> int:
    """Return how many rows are worth a file, in a history of so many rows that is split by some bits.

    Where buckets are larger than they should be, for no history is split deeper than ``MOST_BITS``, files are as many times larger:
    so a history of any size has some ten thousands of them.

    Example:
        >>> rows_per_file(10_000_000, 4), rows_per_file(10_000_000, 4, is_local=False), rows_per_file(100_000_000_000, 14)
        (32768, 262144, 199999)
    """
    least = ROWS_PER_FILE if is_local else ROWS_PER_FILE * LARGER_OBJECTS
    return least if bits < MOST_BITS else max(least, (rows >> bits) * least // ROWS_PER_BUCKET)


def bits_worth(rows: int, bits: int, per_file: int) -> int:
    """Return how deep so many new rows are spread, in a history that is split by some bits, where so many are worth a file.

    Example:
        >>> bits_worth(1_000, 7, 32_768), bits_worth(300_000, 7, 32_768), bits_worth(10_000_000, 7, 32_768)
        (0, 3, 7)
    """
    return min(bits, max(1, rows // per_file).bit_length() - 1)


def are_related(one: int, other: int) -> bool:
    """Return whether rows of one node may be rows of another: it lies above the other, or below, or is it.

    Example:
        >>> are_related(1, 13), are_related(6, 13), are_related(7, 13)
        (True, True, False)
    """
    deeper = bits_of(one) - bits_of(other)
    return one >> deeper == other if deeper >= 0 else other >> -deeper == one


def within(node: int, hashed: pl.Expr) -> pl.Expr:
    """Return an expression that tells whether a hash of keys falls in a node."""
    if node == ROOT:
        return pl.lit(value=True)
    shift = 64 - bits_of(node)
    low = (node << shift) - (1 << 64)
    return hashed.is_between(pl.lit(low, pl.UInt64), pl.lit(low + (1 << shift) - 1, pl.UInt64))


def key_hash(keys: Mapping[str, pl.DataType]) -> pl.Expr:
    """Return an expression for the hash of the join keys: XXH64 of their text, null where a key is null.

    Args:
        keys: the columns and the dtypes they have.
    """
    texts = [_text(pl.col(name), dtype) for name, dtype in keys.items()]
    joined = texts[0] if len(texts) == 1 else pl.concat_str(texts, separator=_SEPARATOR)
    return cast("pl.Expr", cast("Any", joined).nchash.xxhash64())


def bucket(keys: Mapping[str, pl.DataType], bits: int) -> pl.Expr:
    """Return an expression for the bucket of each row, among ``2**bits``; null where a key is null."""
    if bits == 0:
        known = pl.all_horizontal(pl.col(name).is_not_null() for name in keys)
        return pl.when(known).then(pl.lit(ROOT, pl.UInt32))
    return node_of(key_hash(keys), bits)


def node_of(hashed: pl.Expr, bits: int) -> pl.Expr:
    """Return an expression for the node that a hash falls in, ``bits`` deep: its leading bits, after a 1."""
    if bits == 0:
        return pl.when(hashed.is_not_null()).then(pl.lit(ROOT, pl.UInt32))
    return (hashed // (1 << (64 - bits))).cast(pl.UInt32) + (1 << bits)


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.String):
        return column
    if isinstance(dtype, pl.Binary):
        return column.bin.encode("hex")
    if isinstance(dtype, (pl.Date, pl.Datetime)):
        return column.to_physical().cast(pl.String)
    if isinstance(dtype, pl.Boolean):
        return column.cast(pl.Int8).cast(pl.String)
    return column.cast(pl.String)
