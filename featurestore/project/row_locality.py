"""Row locality (S20): checks that a transform gives the same rows however its input is split."""

from typing import Any

import polars as pl
from polars import selectors as cs

from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.fingerprint import Transform
from featurestore.errors import DefinitionError
from featurestore.rows.transform import collect_transform, not_the_same_twice, output_columns, run_transform

SAMPLE_ROWS = 256
_HINT = (
    "A transform may select, filter, derive, explode and join to a static table, but not sort, group or window over rows: "
    "a backfill and an hourly run would disagree. What aggregates over rows is a windowed feature."
)


def check_row_local(view: ViewSpec, transform: Transform, sample: pl.DataFrame) -> None:
    """Try a transform on a sample, whole, once more, and split in several ways; refuse it where the results differ.

    Args:
        view: the view.
        transform: its transform.
        sample: rows of the source; an empty sample shows nothing.

    Raises:
        DefinitionError: the parts' results together are not the result of the whole; names the columns that differ.
    """
    if sample.is_empty():
        return
    half = sample.head(SAMPLE_ROWS // 2)
    rows = pl.concat([half, half])  # each row twice, so that a group or a unique() over distinct rows is found out too
    whole = collect_transform(rows, view, transform)
    again = collect_transform(rows, view, transform)
    if differing := _differing(whole, again):
        raise DefinitionError(not_the_same_twice(view, differing), view.place)
    plan = run_transform(rows.lazy(), view, transform).explain(optimized=False)
    if any(line.strip().startswith("SORT BY") for line in plan.splitlines()):
        raise DefinitionError(f"the transform of view {view.name!r} sorts its rows (S20). {_HINT}", view.place)
    every = pl.int_range(pl.len())
    splits = [every < pl.len() // 2, every % 2 == 0, every % 3 == 0, every == 0]
    for split in splits:
        parts = [collect_transform(rows.filter(part), view, transform) for part in (split, ~split)]
        _compare(view, whole, pl.concat(parts, how="vertical_relaxed"), "two parts")
    singles = [collect_transform(rows[index : index + 1], view, transform) for index in range(min(rows.height, 32))]
    first = collect_transform(rows.head(32), view, transform)
    _compare(view, first, pl.concat(singles, how="vertical_relaxed"), "single rows")


def _compare(view: ViewSpec, whole: pl.DataFrame, parts: pl.DataFrame, split: str) -> None:
    if whole.height != parts.height:
        raise DefinitionError(
            f"the transform of view {view.name!r} is not row-local (S20): it makes {whole.height} rows of a sample at once, but "
            f"{parts.height} of the same sample in {split}. {_HINT}",
            view.place,
        )
    if differing := _differing(whole, parts):
        names = ", ".join(repr(name) for name in differing)
        raise DefinitionError(
            f"the transform of view {view.name!r} is not row-local (S20): {names} differ when a sample comes in {split}. {_HINT}",
            view.place,
        )


def _differing(one: pl.DataFrame, other: pl.DataFrame) -> list[str]:
    """Return the columns in which two results differ, whatever the order of their rows."""
    if one.height != other.height:
        return output_columns(one)
    # Python has no words for times beyond its calendar: they are compared as the numbers that they are stored as.
    one, other = (frame.with_columns((cs.temporal() | cs.nested()).to_physical()) for frame in (one, other))
    differing = [name for name in one.columns if _bag(one[name]) != _bag(other[name])]
    if not differing and _bag_of_rows(one) != _bag_of_rows(other):
        differing = one.columns
    return [name for name in differing if name in output_columns(one)] or differing


def _bag(column: pl.Series) -> list[str]:
    """Return a column's values, in an order that does not depend on the rows'."""
    return sorted(map(_said, column.to_list()))


def _said(value: Any) -> str:
    """Return a value as text; a float without the last bits, in which Polars' division of a single row may differ."""
    return f"{value:.13g}" if isinstance(value, float) else repr(value)


def _bag_of_rows(frame: pl.DataFrame) -> list[str]:
    return sorted("|".join(map(_said, row)) for row in frame.rows())
