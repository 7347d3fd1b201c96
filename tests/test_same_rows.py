"""Which rows count how often, through the public API, however they arrive (S9, S17, S20)."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars import selectors as cs

from featurestore import (
    DeltaSource,
    Entity,
    FeatureStore,
    FeatureView,
    FrameSource,
    ParquetSource,
    count,
    count_distinct,
    last,
    sum_,
)  # fmt: skip
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.source import Source
from featurestore.definitions.window_features import COPY, EVENT_ID, WithInputs
from featurestore.errors import DefinitionError, DefinitionErrors
from tests.effort import examples, few, spread

AT = datetime(2013, 7, 1, 12, tzinfo=UTC)
CARD = Entity("card", card=str)
ONE = pl.DataFrame({"card": ["c1"], "at": [AT], "amount": [5.0]})


def purchases(source: Source, transform: Any = None) -> type[FeatureView]:
    body: dict[str, Any] = {
        "__annotations__": {"n": int, "spent": float}, "n": count().over("1h"), "spent": sum_("amount").over("1h"),
    }  # fmt: skip
    if transform is not None:
        body["transform"] = staticmethod(transform)
    return type("Purchases", (FeatureView,), body | {"__module__": __name__}, entity=CARD, source=source)


@contextmanager
def store_in(folder: Path) -> Iterator[FeatureStore]:
    with FeatureStore(folder, clock=lambda: AT + timedelta(minutes=5)) as store:
        yield store


def read(store: FeatureStore, view: str = "purchases") -> dict[str, Any]:
    """The one card's features, which are the same online and in training (S16)."""
    [online] = store.online(view, [{"card": "c1"}], at=AT + timedelta(minutes=5)).to_dicts()
    spine = pl.DataFrame({"card": ["c1"], "event_time": [AT + timedelta(minutes=5)]})
    [training] = store.training_frame(spine, [view]).to_dicts()
    assert {name: training[name] for name in online} == online
    return {name: value for name, value in online.items() if name != "card"}


def in_files(store: FeatureStore, folder: Path, reads: Sequence[pl.DataFrame]) -> None:
    for rows in reads:
        rows.write_parquet(folder / "data" / f"{len(list((folder / 'data').iterdir()))}.parquet")
        store.materialize()


def in_pushes(store: FeatureStore, folder: Path, reads: Sequence[pl.DataFrame]) -> None:
    for rows in reads:
        store.push("s", rows)


def in_turn(store: FeatureStore, folder: Path, reads: Sequence[pl.DataFrame]) -> None:
    for number, rows in enumerate(reads):
        (in_pushes if number % 2 else in_files)(store, folder, [rows])


def folded(store: FeatureStore, folder: Path, reads: Sequence[pl.DataFrame]) -> None:
    for rows in reads:
        store.push("s", rows)
        store.materialize()


WAYS: list[Callable[[FeatureStore, Path, Sequence[pl.DataFrame]], None]] = [in_files, in_pushes, in_turn, folded]


def counted(way: Callable[..., None], reads: Sequence[pl.DataFrame], transform: Any = None) -> int:
    """How many rows a window counts after some reads."""
    with tempfile.TemporaryDirectory() as name, store_in(Path(name)) as store:
        (Path(name) / "data").mkdir()
        reads[0].clear().write_parquet(Path(name) / "data" / "0.parquet")
        store.apply([purchases(ParquetSource("s", "data", event_time="at"), transform)])
        way(store, Path(name), reads)
        found = read(store)
        assert found["spent"] == 5.0 * found["n"]
        n: int = found["n"]
        return n


TWO: dict[str, tuple[Any, Any, Any]] = {
    "text": (pl.String, "m1", "m2"),
    "null": (pl.String, "m1", None),
    "integer": (pl.Int64, 2**62, 2**62 + 1),
    "float": (pl.Float64, 0.1, 0.1 + 2**-50),
    "decimal": (pl.Decimal(10, 2), Decimal("1.50"), Decimal("1.51")),
    "time": (pl.Datetime("us", "UTC"), AT, AT + timedelta(microseconds=1)),
    "truth": (pl.Boolean, True, False),
    "bytes": (pl.Binary, b"\xff\x00", b"\xff\x01"),
    "list": (pl.List(pl.Int64), [1, 2], [2, 1]),
    "struct": (pl.Struct({"x": pl.Int64, "y": pl.String}), {"x": 1, "y": "a"}, {"x": 1, "y": "b"}),
}


@pytest.mark.parametrize(("kind", "way"), spread([*TWO], [in_files, in_turn]))
def test_s9_rows_that_differ_in_any_column_of_the_source_all_count(kind: str, way: Any) -> None:
    dtype, one, two = TWO[kind]
    first, second = (ONE.with_columns(pl.Series("merchant", [value], dtype=dtype)) for value in (one, two))
    assert counted(way, [first, second, pl.concat([first, second])]) == 2


SAME: dict[str, Sequence[pl.Series]] = {
    "integers": [pl.Series([1], dtype=dtype) for dtype in (pl.Float64, pl.Int32, pl.Int8, pl.Float32)],
    "decimals": [pl.Series([Decimal("1.5")], dtype=pl.Decimal(10, scale)) for scale in (2, 1)],
    "zeros": [pl.Series([zero]) for zero in (0.0, -0.0)],
    "times": [pl.Series([AT], dtype=pl.Datetime(unit, "UTC")) for unit in ("us", "ms")],
    "texts": [pl.Series(["x"], dtype=dtype) for dtype in (pl.String, pl.Categorical)],
    "lists": [pl.Series([[1, None]], dtype=pl.List(dtype)) for dtype in (pl.Float64, pl.Int32)],
}


@pytest.mark.parametrize(("forms", "way"), spread([*SAME], [in_pushes, in_turn]))
def test_s9_a_row_read_again_in_another_form_is_the_same(forms: str, way: Any) -> None:
    assert counted(way, [ONE.with_columns(column.alias("merchant")) for column in SAME[forms]]) == 1


@settings(max_examples=examples(10), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=4), st.sampled_from(WAYS))
def test_s9_a_row_counts_as_often_as_the_read_that_holds_most_of_it(reads: list[list[str]], way: Any) -> None:
    most: Counter[str] = Counter()
    for rows in reads:
        most |= Counter(rows)
    frames = [pl.concat([ONE.with_columns(merchant=pl.lit(name)) for name in rows]) for rows in reads]
    assert counted(way, frames) == most.total()


def test_s9_a_column_that_is_added_changes_no_row(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with store_in(tmp_path) as store:
        ONE.write_parquet(tmp_path / "data" / "0.parquet")
        store.apply([purchases(ParquetSource("s", "data", event_time="at"))])
        store.materialize()
        ONE.with_columns(merchant=pl.lit(None, pl.String)).write_parquet(tmp_path / "data" / "1.parquet")
        store.materialize()
        assert read(store)["n"] == 1


def test_s9_a_compaction_of_a_delta_source_changes_nothing(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with store_in(tmp_path) as store:
        ONE.with_columns(merchant=pl.lit("m1")).write_delta(data)
        store.apply([purchases(DeltaSource("s", data, event_time="at"))])
        store.materialize()
        ONE.with_columns(merchant=pl.lit("m2")).write_delta(data, mode="append")
        store.materialize()
        deltalake.DeltaTable(data).optimize.compact()
        store.materialize()
        assert read(store)["n"] == 2


def only_some(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select("card", "at", "amount")


def many_selectors(rows: pl.LazyFrame) -> pl.LazyFrame:
    rows = rows.with_columns(total=pl.sum_horizontal(cs.numeric()), least=pl.min_horizontal(cs.float()))
    rows = rows.with_columns(cs.numeric().fill_null(0), cs.string().str.to_lowercase()).drop_nulls()
    return rows.filter(pl.col("total") == 5.0, pl.col("least") == 5.0)


def as_numbers(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(pl.exclude("card", "at", "merchant").cast(pl.Float64))


def joined(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.join(pl.LazyFrame({"card": ["c1"], "limit": [3]}), on="card", how="left")


@pytest.mark.parametrize(("transform", "way"), spread([many_selectors, as_numbers, joined, only_some], [in_files, in_pushes]))
def test_s9_a_row_is_told_apart_beyond_a_transform(transform: Any, way: Any) -> None:
    first, second = (ONE.with_columns(merchant=pl.lit(name)) for name in ("m1", "m2"))
    # Where the transform chooses its columns, what it returns tells rows apart.
    assert counted(way, [first, second, first], transform) == (1 if transform is only_some else 2)


def exploded(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.explode("items")


def test_s9_each_row_that_a_transform_makes_of_one_counts() -> None:
    row = ONE.with_columns(items=pl.Series([["a", "b", "a"]], dtype=pl.List(pl.String)))
    other = ONE.with_columns(items=pl.Series([["a", "b", "a", "c"]], dtype=pl.List(pl.String)))
    assert counted(in_pushes, [row, row, other], exploded) == 7


def test_s9_a_source_that_has_the_reserved_column_is_told_to_rename_it(tmp_path: Path) -> None:
    rows = ONE.with_columns(_row_hash=pl.lit(1))
    with store_in(tmp_path) as store, pytest.raises(DefinitionErrors, match="'_row_hash', a name that is taken: rename="):
        store.apply([purchases(FrameSource("s", rows, event_time="at"))])


class Charges(
    FeatureView,
    entity=CARD,
    source=ParquetSource("s", "data", event_time="at", available_time="got", event_id="id"),
):
    n: int = count().over("1h")
    different: int = count_distinct("merchant").over("1h")
    spent: float = sum_("amount").over("1h")
    latest: float | None = last("amount").over("1h")


def charge(number: int, dtype: Any, ident: Any = 1) -> pl.DataFrame:
    """The n-th version of an event, its id and merchant of some type."""
    values = {name: pl.Series([ident], dtype=dtype) for name in ("id", "merchant")}
    got = AT + timedelta(seconds=number)
    return pl.DataFrame({"card": ["c1"], "at": [AT], "got": [got], "amount": [float(number)], **values})


@pytest.mark.parametrize("way", few([in_files, in_turn, folded, in_pushes], [in_turn, folded]))
def test_s9_ids_and_distinct_values_are_compared_as_values(way: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    charge(0, pl.Int32).clear().write_parquet(tmp_path / "data" / "0.parquet")
    with store_in(tmp_path) as store:
        store.apply([Charges])
        versions = [charge(n, dtype) for n, dtype in enumerate([pl.Int32, pl.Float64, pl.Int16, pl.Float32])]
        way(store, tmp_path, versions)
        assert read(store, "charges") == {"n": 1, "different": 1, "spent": 3.0, "latest": 3.0}
        in_files(store, tmp_path, [charge(0, pl.Float64, 2.5), charge(9, pl.Float32, 2.5)])
        assert read(store, "charges") == {"n": 2, "different": 2, "spent": 12.0, "latest": 9.0}


def test_s9_texts_that_look_like_numbers_are_texts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with store_in(tmp_path) as store:
        pl.concat([charge(1, pl.String, "1"), charge(2, pl.String, "1.0")]).write_parquet(tmp_path / "data" / "0.parquet")
        store.apply([Charges])
        store.materialize()
        assert read(store, "charges") == {"n": 2, "different": 2, "spent": 3.0, "latest": 2.0}


@pytest.mark.parametrize("pushed", few(["\x1fzz", "\x1f7", "\x1e", "\x1e\x1f7"], ["\x1fzz", "\x1e\x1f7"]))
def test_s4_s9_no_text_changes_what_another_entity_has(tmp_path: Path, pushed: str) -> None:
    (tmp_path / "data").mkdir()
    texts = ["007", "7", "7.0"]
    with store_in(tmp_path) as store:
        pl.concat([charge(n, pl.String, text) for n, text in enumerate(texts)]).write_parquet(tmp_path / "data" / "0.parquet")
        store.apply([Charges])
        store.materialize()
        other = charge(0, pl.String, pushed).with_columns(card=pl.lit("c2"))
        for _ in range(2):
            store.push("s", other)
        store.push("s", charge(0, pl.String, texts[0]))
        for _ in range(2):
            spine = pl.DataFrame({"card": ["c1", "c2"], "event_time": [AT + timedelta(minutes=5)] * 2})
            trained = store.training_frame(spine, ["charges"]).select("n", "different").rows()
            online = store.online("charges", [{"card": "c1"}, {"card": "c2"}], at=AT + timedelta(minutes=5)).to_dicts()
            assert trained == [(row["n"], row["different"]) for row in online] == [(3, 3), (1, 1)]
            assert store.sql("from charges").height == 4
            store.materialize()
            store.admin.rebuild_online()


@pytest.fixture
def former(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Stores rows as the version before did: without a hash, and numbers as their text."""

    def stored(view: ViewSpec) -> tuple[FeatureSpec, ...]:
        inputs = tuple(FeatureSpec(each.name, each.dtype, nullable=True) for each in view.inputs)
        if view.source.event_id is not None:
            return (*inputs, FeatureSpec(EVENT_ID, pl.String()))
        return (*inputs, FeatureSpec(COPY, pl.Int64(), nullable=True))

    def compute(self: WithInputs, rows: pl.LazyFrame) -> pl.LazyFrame:
        made = [pl.col("amount").alias("amount")]
        if self.source.event_id is None:
            return rows.with_columns(*made, pl.lit(None, pl.Int64).alias(COPY))
        text = pl.col("id").cast(pl.String)
        return rows.with_columns(*made, text.alias(EVENT_ID), different=pl.col("merchant").cast(pl.String))

    with monkeypatch.context() as patch:
        patch.setattr(ViewSpec, "stored", property(stored))
        patch.setattr(WithInputs, "__call__", compute)
        yield patch


@pytest.mark.parametrize("pushed", [False, True])
def test_old_rows_without_a_hash_are_known_when_they_are_read_again(
    tmp_path: Path, former: pytest.MonkeyPatch, pushed: bool
) -> None:
    (tmp_path / "data").mkdir()
    rows = pl.concat([ONE, ONE, ONE]).with_columns(merchant=pl.Series(["m1", "m2", "m2"]))
    (rows.clear() if pushed else rows).write_parquet(tmp_path / "data" / "0.parquet")
    view = purchases(ParquetSource("s", "data", event_time="at"))
    with store_in(tmp_path) as store:
        store.apply([view])
        if pushed:
            store.push("s", rows)
        else:
            store.materialize()
        assert read(store)["n"] == 3
    former.undo()
    with store_in(tmp_path) as store:
        assert store.plan([view]).is_empty
        assert read(store)["n"] == 3
        for again in ([rows], [rows[1:]], [rows[:1], rows[2:]]):
            in_pushes(store, tmp_path, again)
            in_files(store, tmp_path, again)
            assert read(store)["n"] == 3
        more = pl.concat([rows, ONE.with_columns(merchant=pl.lit("m3"))])
        for way in (in_pushes, in_files, in_pushes):
            way(store, tmp_path, [more])
            assert read(store)["n"] == 4


@pytest.mark.parametrize(("dtype", "pushed"), spread([pl.Float64, pl.Int64], [False, True]))
def test_old_numbers_kept_as_text_are_the_numbers(tmp_path: Path, former: pytest.MonkeyPatch, dtype: Any, pushed: bool) -> None:
    (tmp_path / "data").mkdir()
    old = pl.concat([charge(1, dtype, 1), charge(2, dtype, 2)])
    (old.clear() if pushed else old).write_parquet(tmp_path / "data" / "0.parquet")
    with store_in(tmp_path) as store:
        store.apply([Charges])
        in_pushes(store, tmp_path, [old]) if pushed else store.materialize()
        assert read(store, "charges") == {"n": 2, "different": 2, "spent": 3.0, "latest": 2.0}
    former.undo()
    with store_in(tmp_path) as store:
        assert store.plan([Charges]).is_empty
        in_pushes(store, tmp_path, [old])
        in_files(store, tmp_path, [old])
        assert read(store, "charges") == {"n": 2, "different": 2, "spent": 3.0, "latest": 2.0}
        in_pushes(store, tmp_path, [charge(5, dtype, 1)])
        assert read(store, "charges") == {"n": 2, "different": 2, "spent": 7.0, "latest": 5.0}
        in_files(store, tmp_path, [charge(7, dtype, 2)])
        assert read(store, "charges") == {"n": 2, "different": 2, "spent": 12.0, "latest": 7.0}


def test_a_windowed_view_of_columns_needs_no_definition_at_hand(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    charge(1, pl.Int64).write_parquet(tmp_path / "data" / "0.parquet")
    with store_in(tmp_path) as store:
        store.apply([Charges])
    with store_in(tmp_path) as store:
        store.materialize()
        store.push("s", charge(2, pl.Int64))
        assert read(store, "charges") == {"n": 1, "different": 1, "spent": 2.0, "latest": 2.0}


def test_a_windowed_view_of_expressions_says_that_it_needs_its_definition(tmp_path: Path) -> None:
    class Spent(FeatureView, entity=CARD, source=ParquetSource("s", "data", event_time="at", event_id="id")):
        twice: float = sum_(pl.col("amount") * 2).over("1h")

    (tmp_path / "data").mkdir()
    charge(1, pl.Int64).write_parquet(tmp_path / "data" / "0.parquet")
    with store_in(tmp_path) as store:
        store.apply([Spent])
    with store_in(tmp_path) as store:
        for bring in (store.materialize, lambda: store.push("s", charge(2, pl.Int64))):
            with pytest.raises(DefinitionError, match="'spent' aggregates expressions, which live in its definition"):
                bring()


@pytest.mark.parametrize("column", ["used", "unused"])
def test_s9_s19_a_day_beyond_the_calendar_ends_no_run(tmp_path: Path, column: str) -> None:
    """PostgreSQL's ``infinity`` comes as such a day."""
    (tmp_path / "data").mkdir()
    days = pl.Series("until", [-2_147_472_692, 0, 0], dtype=pl.Int32).cast(pl.Date)
    rows = pl.concat([ONE] * 3).with_columns(days)
    rows.write_parquet(tmp_path / "data/rows.parquet")
    source = ParquetSource("s", "data/*.parquet", event_time="at", event_id="until" if column == "used" else None)
    with store_in(tmp_path) as store:
        store.apply([purchases(source)])
        [summary] = store.materialize()
        assert (summary.rows_written, summary.rows_rejected) == ((2, 0) if column == "used" else (3, 0))
        assert read(store) == ({"n": 2, "spent": 10.0} if column == "used" else {"n": 3, "spent": 15.0})


def test_s9_a_column_of_objects_that_nobody_uses_ends_no_run(tmp_path: Path) -> None:
    rows = pl.concat([ONE] * 2).with_columns(pl.Series("o", [object(), None], dtype=pl.Object))
    source = FrameSource("s", rows, event_time="at")
    with store_in(tmp_path) as store:
        store.apply([purchases(source)])
        [summary] = store.materialize()
        assert (summary.rows_written, summary.rows_rejected) == (2, 0)
        assert read(store) == {"n": 2, "spent": 10.0}


@pytest.mark.parametrize(("first", "second"), spread(["day", "naive", "berlin", "ms"], ["utc", "naive", "day"]))
def test_s9_a_correction_finds_its_event_whatever_time_the_id_is_read_as(tmp_path: Path, first: str, second: str) -> None:
    """A source's ids are dates in one file and timestamps in another, or get a zone."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    id_ = pl.lit(datetime(2026, 1, 1, tzinfo=UTC))
    forms = {
        "utc": id_, "naive": id_.dt.replace_time_zone(None), "berlin": id_.dt.convert_time_zone("Europe/Berlin"),
        "day": id_.dt.date(), "ms": id_.dt.replace_time_zone(None).dt.cast_time_unit("ms"),
    }  # fmt: skip
    files = [
        pl.DataFrame({"k": ["a"], "at": [noon], "got": [noon + timedelta(minutes=late)], "x": [x]}).with_columns(id=forms[form])
        for late, x, form in ((0, 1.0, first), (5, 10.0, second))
    ]
    data = tmp_path / "data"
    data.mkdir()
    source = ParquetSource("s", str(data), event_time="at", available_time="got", event_id="id")
    body: dict[str, Any] = {
        "__annotations__": {"n": int, "total": float}, "__module__": __name__,
        "n": count().over("1d"), "total": sum_("x").over("1d"),
    }  # fmt: skip
    view: Any = type("Total", (FeatureView,), body, entity=Entity("e", k=str), source=source)
    with FeatureStore(tmp_path, clock=lambda: noon + timedelta(minutes=10)) as store:
        for number, rows in enumerate(files):
            rows.write_parquet(data / f"{number}.parquet")
            if not number:
                store.apply([view])
            store.materialize()
        right = {"n": 1, "total": 10.0}
        spine = pl.DataFrame({"k": ["a"], "t": [noon + timedelta(minutes=6)]})
        assert store.online(view, [{"k": "a"}]).to_dicts() == [{"k": "a", **right}]
        assert store.training_frame(spine, view, time="t").select("n", "total").to_dicts() == [right]
