"""The total order of a history: a set of distinct rows, as functions of frames.

The columns are the join keys, ``event_time``, ``available_time`` (the effective one, S2) and the features. The order is by
keys, event time, available time, the source's ``order_by`` where it names one, and where all of these are equal by the row codec's
bytes (S4), so the last row of an
entity is always the one that wins.
"""

from collections.abc import Collection, Sequence

import polars as pl

from featurestore.definitions.window_features import COPY, EVENT_ID, ORDER, ROW_HASH
from featurestore.identity import same_values
from featurestore.row_codec import pack_rows

EVENT = "event_time"
AVAILABLE = "available_time"
COMMIT = "_commit"
"""The number of the commit that brought a row (S24), in frames that have it beside the columns of a history."""
_NOT_YET = (1 << 63) - 1
_TIE = "_tie"
_HELD = "_held"


def same_as_before(columns: Sequence[str]) -> pl.Expr:
    """Return an expression that tells whether a row agrees with the one before it in some columns."""
    return pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in columns) & (pl.int_range(pl.len()) > 0)


def sort_history(frame: pl.DataFrame, keys: Sequence[str], features: Sequence[str]) -> pl.DataFrame:
    """Return the distinct rows of a history in their total order.

    Args:
        frame: rows in any order, perhaps repeated.
        keys: the join keys.
        features: all features of the view, in the view's order: the bytes of a tie depend on it.

    Returns:
        The rows. Of equal ones the first commit's is kept; a null is a commit after all others.
    """
    order = _order_of(keys, features)
    frame = frame.sort(order)
    same = frame.select(same_as_before(order)).to_series()
    if not same.any():
        return frame
    tied = same | same.shift(-1, fill_value=False)
    ties = frame.filter(tied)
    # What is stored beside the values decides nothing: online there are these alone.
    values = [name for name in features if name != ORDER]
    ties = ties.with_columns(pl.Series(_TIE, pack_rows(ties.select(values)), dtype=pl.Binary))
    first = [pl.col(COMMIT).fill_null(_NOT_YET)] if COMMIT in ties.columns else []
    ties = ties.sort([*order, _TIE, *first]).filter(~same_as_before([*order, _TIE]))
    return pl.concat([frame.filter(~tied), ties.drop(_TIE)]).sort(order, maintain_order=True)


def _order_of(keys: Sequence[str], features: Collection[str]) -> list[str]:
    """Return the columns that order a history, before the bytes of its values do."""
    return [*keys, EVENT, AVAILABLE, *([ORDER] if ORDER in features else [])]


def count_tied(history: pl.DataFrame, keys: Sequence[str]) -> int:
    """Return how many rows of a history, in its total order, have all of another that orders it but for the values (S4)."""
    if history.height < 2:
        return 0
    same = history.select(same_as_before(_order_of(keys, history.columns))).to_series()
    return int((same | same.shift(-1, fill_value=False)).sum())


def number_copies(frame: pl.DataFrame, keys: Sequence[str], features: Sequence[str]) -> pl.DataFrame:
    """Return rows with those that are wholly equal numbered in ``_copy``, so that each of them counts (S9).

    A row read again gets the number it had, so what is read twice is still kept once (S17). Rows numbered already, and
    histories that have no such column, stay as they are.
    """
    if COPY not in features or not frame[COPY].null_count():
        return frame
    same = [*keys, EVENT, AVAILABLE, *(name for name in features if name != COPY)]
    return frame.with_columns(pl.coalesce(COPY, pl.int_range(pl.len(), dtype=pl.Int64).over(same)))


def merge_files(parts: Sequence[pl.DataFrame], keys: Sequence[str], features: Sequence[str]) -> pl.DataFrame:
    """Return one history of several files' rows, each in the total order; of one file, it is that already."""
    return parts[0] if len(parts) == 1 else sort_history(pl.concat(parts), keys, features)


def without_known(new: pl.DataFrame, known: pl.DataFrame, keys: Sequence[str], features: Sequence[str]) -> pl.DataFrame:
    """Return the rows that a history does not hold yet, in their order (S17)."""
    return split_known(new, known, keys, features)[0]


def split_known(
    given: pl.DataFrame, known: pl.DataFrame, keys: Sequence[str], features: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that a history does not hold yet, and those it holds, both in their order.

    Args:
        given: the rows.
        known: all rows of the history that may be the same.
        keys: the join keys.
        features: all other columns but the times.
    """
    new, same = split_equal(given, known, keys, features)
    rest, former = split_former(new, known, keys, features)
    return rest, same if former.is_empty() else pl.concat([same, former])


def split_equal(
    given: pl.DataFrame, known: pl.DataFrame, keys: Sequence[str], features: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """As ``split_known``, of a history's rows that may be a part of those that may be the same, and have a hash if any has."""
    if known.is_empty() or given.is_empty():
        return given, given.clear()
    order = [*keys, EVENT, AVAILABLE]
    met = given.select(order).with_row_index("_row").join(known.select(order).unique(), on=order, how="semi")
    if met.is_empty():
        return given, given.clear()
    new = given.with_row_index("_row")
    maybe = new.join(met.select("_row"), on="_row", how="semi", maintain_order="left")
    rivals = known.join(maybe.select(order).unique(), on=order, how="semi")
    if EVENT_ID in features:
        marked = same_values(rivals, _texts(rivals, features), maybe)
        # Some of the texts are the source's own values, which are what they are, however they begin.
        rivals = rivals if marked is rivals else pl.concat([rivals, marked])
    maybe = maybe.with_columns(pl.Series(_TIE, pack_rows(maybe.select(features)), dtype=pl.Binary))
    rivals = rivals.with_columns(pl.Series(_TIE, pack_rows(rivals.select(features)), dtype=pl.Binary))
    repeated = maybe.join(rivals, on=[*order, _TIE], how="semi").select("_row")
    first, second = (new.join(repeated, on="_row", how=how, maintain_order="left").drop("_row") for how in ("anti", "semi"))
    return first, second


def split_former(
    given: pl.DataFrame, known: pl.DataFrame, keys: Sequence[str], features: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that are not among those stored before rows had a hash, and those that are, by what these have.

    As many rows are taken for known as there are former ones that agree in all other columns. It is to be asked of rows that
    no row with a hash is equal to, with all former ones that may be the same.

    Args:
        given: the rows.
        known: rows of the history; those with a hash are passed over.
        keys: the join keys.
        features: all other columns but the times.
    """
    if ROW_HASH not in features or given.is_empty() or not known[ROW_HASH].null_count():
        return given, given.clear()
    order = [*keys, EVENT, AVAILABLE]
    former = known.filter(pl.col(ROW_HASH).is_null()).join(given.select(order).unique(), on=order, how="semi")
    if former.is_empty():
        return given, given.clear()
    inputs = [name for name in features if name not in (ROW_HASH, COPY)]
    same = [*order, _TIE]
    former = same_values(former, _texts(former, inputs), given)
    stored_counts = (
        former.with_columns(pl.Series(_TIE, pack_rows(former.select(inputs)), dtype=pl.Binary)).group_by(same).len(_HELD)
    )
    numbered = given.with_row_index("_row").with_columns(pl.Series(_TIE, pack_rows(given.select(inputs)), dtype=pl.Binary))
    place = pl.int_range(pl.len()).over(same, order_by=[ROW_HASH, COPY])
    counted = numbered.with_columns(place.alias("_place")).join(stored_counts, on=same, how="left", maintain_order="left")
    is_known = (pl.col("_place") < pl.col(_HELD)).fill_null(value=False)
    taken = counted.select(is_known).to_series()
    return given.filter(~taken), given.filter(taken)


def without_hash(known: pl.DataFrame, given: pl.DataFrame, keys: Sequence[str]) -> list[pl.DataFrame]:
    """Return the rows of a history that were stored before rows had a hash and may be some of those given: a frame or none."""
    if ROW_HASH not in known.columns or not known[ROW_HASH].null_count():
        return []
    order = [*keys, EVENT, AVAILABLE]
    return [known.filter(pl.col(ROW_HASH).is_null()).join(given.select(order).unique(), on=order, how="semi")]


def _texts(frame: pl.DataFrame, names: Sequence[str]) -> list[str]:
    return [name for name in names if frame.schema[name] == pl.String]


def last_rows(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Return each entity's greatest row (S4), of a history in its total order."""
    is_last = ~pl.all_horizontal(pl.col(key).eq_missing(pl.col(key).shift(-1)) for key in keys)
    return frame.filter(is_last | (pl.int_range(pl.len()) == pl.len() - 1))
