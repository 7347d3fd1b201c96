"""Which values, and which rows, are the same (S9)."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from struct import pack, unpack
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.identity import IDS, distinct_values, id_text, row_hash, same_values, value_text

AT = datetime(2020, 1, 2, 3, 4, 5, 6000)  # noqa: DTZ001 - polars takes it for columns with and without a time zone
POINT = pl.Struct({"x": pl.Int8, "y": pl.String})


def hash_of(value: Any, dtype: Any, name: str = "a") -> int:
    frame = pl.DataFrame({name: pl.Series([value], dtype=dtype)})
    found: int = frame.select(row_hash(frame.schema)).item()
    return found


def text_of(value: Any, dtype: Any) -> str:
    frame = pl.DataFrame({"a": pl.Series([value], dtype=dtype)})
    found: str = frame.select(value_text(pl.col("a"), frame.schema["a"])).item()
    return found


SAME: dict[str, list[tuple[Any, Any]]] = {
    "one": [(1, pl.Int8), (1, pl.UInt64), (1.0, pl.Float32), (1.0, pl.Float64), (Decimal(1), pl.Decimal(10, 2)), (1, pl.Int128)],
    "a fraction": [(1.5, pl.Float32), (1.5, pl.Float64), (Decimal("1.5"), pl.Decimal(5, 1)), (Decimal("1.50"), pl.Decimal(9, 2))],
    "zero": [(0.0, pl.Float64), (-0.0, pl.Float64), (0, pl.Int8), (Decimal(0), pl.Decimal(5, 3))],
    "beyond 64 bits": [(2**63, pl.UInt64), (2.0**63, pl.Float64), (Decimal(2**63), pl.Decimal(38, 0))],
    "NaN": [(float("nan"), pl.Float64), (float("nan"), pl.Float32), (unpack("d", pack("Q", 0xFFF8000000000001))[0], pl.Float64)],
    "an instant": [(AT, pl.Datetime(unit, zone)) for unit in ("ms", "us", "ns") for zone in (None, "UTC")],
    "a duration": [(timedelta(days=-1, seconds=5), pl.Duration(unit)) for unit in ("ms", "us", "ns")],
    "text": [("x", pl.String), ("x", pl.Categorical), ("x", pl.Enum(["y", "x"]))],
}
NESTED: dict[str, list[tuple[Any, Any]]] = {
    "a list": [([1, None], pl.List(pl.Int8)), ([1.0, None], pl.List(pl.Float64)), ([1, None], pl.Array(pl.Int64, 2))],
    "lists of lists": [([[1], []], pl.List(pl.List(pl.Int8))), ([[1.0], []], pl.List(pl.List(pl.Float64)))],
    "a struct": [
        ({"x": 1, "y": None}, POINT), ({"x": 1.0}, pl.Struct({"x": pl.Float64})),
        ({"z": None, "x": 1}, pl.Struct({"z": pl.List(pl.Int8), "x": pl.Int64})),
    ],
    "structs in a list": [([{"x": 1}], pl.List(pl.Struct({"x": pl.Int8}))), ([{"x": 1.0}], pl.List(pl.Struct({"x": pl.Float64})))],
    "a day": [(date(2020, 1, 2), pl.Date), (AT.replace(hour=0, minute=0, second=0, microsecond=0), pl.Datetime("us"))],
}  # fmt: skip
OTHERS: list[tuple[Any, Any]] = [
    (2, pl.Int8), (0.1, pl.Float64), ("1", pl.String), ("", pl.String), ("1.0", pl.String), (b"1", pl.Binary), (b"\xff", pl.Binary),
    (True, pl.Boolean), (False, pl.Boolean), (timedelta(0), pl.Duration("us")), (float("inf"), pl.Float64), (1e300, pl.Float64),
    ([], pl.List(pl.Int8)), ([None], pl.List(pl.Int8)), ([None, 1], pl.List(pl.Int8)), ([[1, 1]], pl.List(pl.List(pl.Int8))),
    ({"x": None, "y": None}, POINT), ({"x": None, "y": "1"}, POINT), (AT + timedelta(microseconds=1), pl.Datetime("us")),
    (2**63 - 1, pl.Int64), (2**53 + 1, pl.Int64), (None, pl.Int8),
]  # fmt: skip


@pytest.mark.parametrize("forms", [*SAME.values(), *NESTED.values()], ids=[*SAME, *NESTED])
def test_s9_a_value_is_the_same_in_every_type(forms: list[tuple[Any, Any]]) -> None:
    assert len({hash_of(*form) for form in forms}) == 1


@pytest.mark.parametrize("forms", SAME.values(), ids=SAME)
def test_s9_an_event_id_is_the_same_in_every_type(forms: list[tuple[Any, Any]]) -> None:
    assert len({text_of(*form) for form in forms}) == 1


def test_s9_different_values_differ() -> None:
    firsts = [forms[0] for forms in {**SAME, **NESTED}.values()] + OTHERS
    assert len({hash_of(*form) for form in firsts}) == len(firsts)


def test_s9_columns_are_told_apart_by_name_and_not_by_place() -> None:
    def of(**columns: Any) -> int:
        frame = pl.DataFrame(columns)
        found: int = frame.select(row_hash(frame.schema)).item()
        return found

    assert of(a=[1], b=[2]) == of(b=[2], a=[1])
    assert len({of(a=[1], b=[2]), of(a=[2], b=[1]), of(a=[1], b=[1]), of(a=[2], b=[2])}) == 4


@pytest.mark.parametrize(
    "dtype", [pl.Int8, pl.String, pl.Null, pl.List(pl.Int8), POINT, pl.Datetime("ns"), pl.Decimal(9, 2)], ids=str
)
def test_s9_a_column_of_nulls_changes_no_row(dtype: Any) -> None:
    before = pl.DataFrame({"a": [1, None], "b": ["x", None]})
    after = before.with_columns(pl.Series("added", [None, None], dtype=dtype))
    assert before.select(row_hash(before.schema)).to_series().equals(after.select(row_hash(after.schema)).to_series())


def test_the_hash_stays_what_it_is() -> None:
    """Histories hold it: it may not change with a version of anything."""
    frame = pl.DataFrame({
        "i": [7], "f": [0.25], "s": ["naïve"], "t": pl.Series([AT], dtype=pl.Datetime("us")), "d": [Decimal("1.50")],
        "b": [b"\x00"], "l": [[1.5, None]], "o": [{"x": 1}], "y": [True],
    })  # fmt: skip
    assert frame.select(row_hash(frame.schema)).item() == HASH


HASH = 4816159541283755410


@given(
    st.lists(
        st.integers(-(2**63), 2**63 - 1) | st.floats() | st.decimals(allow_nan=False, allow_infinity=False, places=4),
        min_size=2,
        max_size=2,
    )
)
def test_s9_numbers_are_the_same_where_they_are_equal(numbers: list[Any]) -> None:
    types: dict[type, Any] = {int: pl.Int64, float: pl.Float64, Decimal: pl.Decimal(38, 4)}
    numbers = [number for number in numbers if not isinstance(number, Decimal) or abs(number) < 10**30]
    # A decimal is compared as it is written: 0.1 is no float, and yet it is the same.
    exact = [float(number) if isinstance(number, Decimal) and len(str(number)) <= 15 else number for number in numbers]
    hashes = {hash_of(number, types[type(number)]) for number in numbers}
    assert len(hashes) == len({"NaN" if number != number else number for number in exact})


def test_s9_numbers_of_before_are_the_same_where_marked_ones_are_beside_them() -> None:
    marked = text_of(1, pl.Int64)
    frame = pl.DataFrame({"id": [marked, "1.0", "1", "1e+16", "x", None, "NaN", "12345678901234567890"]})
    assert same_values(frame, ["id"])["id"].to_list() == [
        marked, marked, marked, text_of(10**16, pl.Int64), "x", None, text_of(float("nan"), pl.Float64),
        text_of(12345678901234567890, pl.UInt64),
    ]  # fmt: skip
    assert same_values(frame[1:3], ["id"])["id"].to_list() == ["1.0", "1"]  # they may be text
    assert same_values(frame[1:3], ["id"], like=frame[:1])["id"].to_list() == [marked, marked]
    assert [distinct_values(texts) for texts in ([marked, "1.0", "1"], ["1.0", "1"], [], [marked, text_of(2.5, pl.Float64)])] == [
        1,
        2,
        0,
        2,
    ]


MARKED_TEXTS = st.builds(
    "".join, st.tuples(st.text("\x1e\x1f", max_size=2), st.sampled_from(["", "1", "1.0", "007", "7", "f1", "-3", "zz", "1.5"]))
)


@given(st.lists(st.text() | MARKED_TEXTS, max_size=6), st.lists(st.text() | MARKED_TEXTS, min_size=1, max_size=6))
def test_s9_texts_are_what_they_are_whatever_texts_are_beside_them(own: list[str], others: list[str]) -> None:
    rows = pl.DataFrame({"a": own + others}, schema={"a": pl.String})
    for way in (value_text, id_text):
        texts = rows.select(way(pl.col("a"), rows.schema["a"]).alias("a"))
        assert texts["a"].n_unique() == rows["a"].n_unique()
        assert same_values(texts, ["a"])["a"].to_list() == texts["a"].to_list()
        assert same_values(texts.head(len(own)), ["a"], texts)["a"].to_list() == texts["a"].to_list()[: len(own)]
        assert distinct_values(texts["a"].to_list()) == rows["a"].n_unique()


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["\x1f1", "1", "\x1e\x1f1"])], ids=str)
def test_s9_no_text_is_a_number(dtype: Any) -> None:
    texts = [text_of(text, dtype) for text in ("\x1f1", "1", "\x1e\x1f1")]
    number = text_of(1, pl.Int8)
    assert len({*texts, number}) == 4
    assert distinct_values([texts[0], number, "1.0"]) == 2  # the last one was stored before numbers had a mark


def test_s9_texts_of_before_are_the_same_as_those_that_have_a_mark() -> None:
    former = ["\x1fzz", "\x1ezz", "\x1e", "7", "7.0"]
    frame = pl.DataFrame({"id": former + [text_of(text, pl.String) for text in former]})
    same = same_values(frame, ["id"])["id"].to_list()
    assert same[:5] == same[5:]
    assert len(set(same)) == 5


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_s9_times_are_event_ids_whatever_their_unit(unit: Any) -> None:
    frame = pl.DataFrame({"id": pl.Series([AT.replace(tzinfo=UTC)], dtype=pl.Datetime(unit, "UTC"))})
    assert frame.select(id_text(pl.col("id"), frame.schema["id"])).item() == "2020-01-02 03:04:05.006000+00:00"


def test_s9_a_time_is_one_event_id_with_a_zone_or_without_and_as_a_date() -> None:
    midnight = datetime(2020, 1, 2, tzinfo=UTC)
    frame = pl.DataFrame({"utc": [midnight, AT.replace(tzinfo=UTC)]}).with_columns(
        naive=pl.col("utc").dt.replace_time_zone(None),
        berlin=pl.col("utc").dt.convert_time_zone("Europe/Berlin").dt.cast_time_unit("ms"),
        day=pl.col("utc").dt.date(),
    )
    ids = frame.select(id_text(pl.col(name), dtype).alias(name) for name, dtype in frame.schema.items())
    assert set(ids.row(0)) == {"2020-01-02 00:00:00.000000+00:00"}
    assert len(set(ids.select("utc", "naive", "berlin").row(1))) == 1
    former = ["2020-01-02", "2020-01-02 03:04:05.006000", "2020-01-02T", "x"]
    stored = pl.DataFrame({IDS: former})
    assert same_values(stored, [IDS])[IDS].to_list() == former
    whole = [ids["utc"][0], "2020-01-02 03:04:05.006000+00:00", *former[2:]]
    assert same_values(stored, [IDS], pl.DataFrame({IDS: ids["utc"]}))[IDS].to_list() == whole
    assert same_values(pl.DataFrame({IDS: [*former, *whole]}), [IDS])[IDS].to_list() == whole * 2


@pytest.mark.parametrize("days", [-2_147_472_692, -(2**31), 2**31 - 1, 106_751_992, -719_163, 2_932_896])
def test_s9_a_day_beyond_the_calendar_is_a_value_like_others(days: int) -> None:
    """PostgreSQL's ``infinity`` comes as such a day."""
    frame = pl.DataFrame({"d": pl.Series([days, 0, None], dtype=pl.Int32).cast(pl.Date)})
    nested = frame.select(pl.concat_list("d").alias("l"), pl.struct("d").alias("s"))
    for rows in (frame, nested.select("l"), nested.select("s")):
        assert rows.select(row_hash(rows.schema)).to_series()[:2].n_unique() == 2
    instant = pl.DataFrame({"d": pl.Series([0], dtype=pl.Datetime("us"))})
    assert frame.select(row_hash(frame.schema))[1].equals(instant.select(row_hash(instant.schema)))


def test_s9_a_column_of_objects_changes_no_row() -> None:
    plain = pl.DataFrame({"a": [1, 2]})
    rows = plain.with_columns(pl.Series("o", [object(), None], dtype=pl.Object))
    assert rows.select(row_hash(rows.schema)).equals(plain.select(row_hash(plain.schema)))


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(2**31 - 1, pl.Date), (-2_147_472_692, pl.Date), (2**62, pl.Datetime("ms")), (2**63 - 1, pl.Datetime("us")),
     (-(2**63), pl.Datetime("us", "UTC")), (2**63 - 1, pl.Datetime("ns"))],
)  # fmt: skip
def test_s9_a_time_beyond_the_calendar_is_an_event_id_of_its_own(number: int, dtype: Any) -> None:
    physical = pl.Int32 if dtype == pl.Date else pl.Int64
    frame = pl.DataFrame({"id": pl.Series([number, number, 0, None], dtype=physical).cast(dtype)})
    one, same, other, null = frame.select(id_text(pl.col("id"), frame.schema["id"])).to_series()
    assert one == same != other
    assert other.startswith("1970-01-01")
    assert null is None
