"""S22 through the public API: a number of any dtype stays what it is in history, training and online, or its row is rejected."""

from typing import Annotated, Any

import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore import FrameSource
from featurestore.clock import from_micros
from tests.effort import examples
from tests.numbers import FOUND, REJECTED, WANTED, becomes, numbers_of, same
from tests.projects import INSTANT, view_of
from tests.windowed import FEW, project

Column = tuple[pl.DataType, pl.DataType, list[Any]]
STORED = [dtype for dtype in FOUND if dtype not in (pl.Int128(), pl.UInt128())]


@st.composite
def several(draw: st.DrawFn) -> list[Column]:
    """Columns of one length, each of a dtype found and one wanted: numbers, or lists of them."""
    rows = draw(st.integers(1, 5))
    made: list[Column] = []
    for _ in range(draw(st.integers(1, 5))):
        found, wanted = draw(st.sampled_from(STORED)), draw(st.sampled_from(WANTED))
        values: st.SearchStrategy[Any] = numbers_of(found)
        if draw(st.booleans()):
            values, found, wanted = st.lists(st.none() | values, max_size=3), pl.List(found), pl.List(wanted)
        made.append((found, wanted, draw(st.lists(st.none() | values, min_size=rows, max_size=rows))))
    return made


@settings(FEW, max_examples=examples(8))
@given(several(), st.booleans())
@example(
    [(pl.Int64(), pl.Float64(), [2**63 - 1, 2**53 + 1, 2**53]), (pl.Float64(), pl.Decimal(5, 2), [1.345, 999.996, None])], False
)
@example([(pl.UInt64(), pl.Float32(), [2**64 - 1, 2**24 + 1, 2**24])], True)
def test_s22_any_number_stays_what_it_is_or_its_row_is_rejected(columns: list[Column], pushed: bool) -> None:
    rows = len(columns[0][2])
    keys = [f"k{row}" for row in range(rows)]
    data = {f"c{place}": pl.Series(values, dtype=found) for place, (found, _, values) in enumerate(columns)}
    frame = pl.DataFrame({"k": keys, "event": pl.Series([0] * rows).cast(INSTANT), **data})
    features = {f"c{place}": Annotated[float | None, wanted] for place, (_, wanted, _) in enumerate(columns)}
    view = view_of(FrameSource("rows", frame.head(0) if pushed else frame, event_time="event"), {"k": str}, features)
    right = [[becomes(value, found, wanted) for value in values] for found, wanted, values in columns]
    kept = [row for row in range(rows) if not any(column[row] is REJECTED for column in right)]
    with project([view], 5) as (store, _):
        summary = store.push("rows", frame)[0] if pushed else store.materialize()[0]
        assert summary.rows_rejected == rows - len(kept)
        spine = pl.DataFrame({"k": keys, "t": [from_micros(1)] * rows})
        trained = store.training_frame(spine, view, time="t")
        online = store.online(view, spine.select("k")).to_polars()
        history = store.sql("select k from v order by k")["k"].to_list()
    assert history == sorted(keys[row] for row in kept)
    for place, (_, wanted, _) in enumerate(columns):
        name = f"c{place}"
        assert trained[name].dtype == online[name].dtype == wanted
        expected = [right[place][row] if row in kept else None for row in range(rows)]
        assert same(trained[name].to_list(), expected)
        assert same(online[name].to_list(), expected)
