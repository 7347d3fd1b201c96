"""The codec of definitions: whatever can be defined is read as it was written."""

import keyword
import math
from datetime import UTC, date, timedelta
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions.entity import RESERVED_COLUMNS, Entity
from featurestore.definitions.feature import Feature, FeatureSpec, make_feature
from featurestore.definitions.feature_view import FeatureView, ViewSpec
from featurestore.definitions.reference import FeatureReference, Reference, ViewReference
from featurestore.definitions.serialization import Spec, data_digest, from_json, from_plain, kind_of, to_json, to_plain
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import CSVSource, DeltaSource, FrameSource, ParquetSource, Source, SQLSource
from featurestore.dtypes import KEY_TYPES, SIMPLE_TYPES
from featurestore.errors import RegistryError
from featurestore.instants import INSTANT

NAMES = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,6}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and name not in RESERVED_COLUMNS | {"description", "owner"}
)
TEXTS = st.text(max_size=8)
TAGS = st.dictionaries(TEXTS, TEXTS, max_size=2)
DECIMALS = st.integers(1, 38).flatmap(lambda digits: st.builds(pl.Decimal, st.just(digits), st.integers(0, digits)))
SCALARS = st.sampled_from([*SIMPLE_TYPES.values(), INSTANT, pl.Duration("us")]) | DECIMALS
DTYPES = st.recursive(
    SCALARS, lambda inner: st.builds(pl.List, inner) | st.builds(pl.Array, inner, st.integers(1, 384)), max_leaves=3
)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
INSTANTS = st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())


@st.composite
def bounds_of(draw: st.DrawFn, dtype: pl.DataType) -> Any:
    """A value that may bound a column of a type."""
    if isinstance(dtype, pl.Decimal):
        return draw(st.integers() | st.decimals(allow_nan=False, allow_infinity=False))
    if isinstance(dtype, pl.Datetime):
        return draw(INSTANTS | st.dates())
    if isinstance(dtype, pl.Date):
        return draw(st.dates())
    if isinstance(dtype, pl.Boolean):
        return draw(st.booleans())
    if isinstance(dtype, pl.String):
        return draw(TEXTS)
    return draw(NUMBERS if dtype.is_float() else NUMBERS.filter(math.isfinite))


@st.composite
def features(draw: st.DrawFn, name: str) -> FeatureSpec:
    dtype = draw(DTYPES)
    said: dict[str, Any] = {"description": draw(TEXTS), "unit": draw(TEXTS), "owner": draw(TEXTS), "tags": draw(TAGS)}
    said["pii"] = draw(st.booleans())
    ordered = dtype.is_numeric() or isinstance(dtype, (pl.Date, pl.Datetime))
    if ordered:
        said |= {each: draw(bounds_of(dtype)) for each in draw(st.sets(st.sampled_from(["ge", "gt", "le", "lt"])))}
    if ordered or isinstance(dtype, (pl.Boolean, pl.String)):
        finite = bounds_of(dtype).filter(lambda value: value not in (float("inf"), float("-inf")))
        said["one_of"] = draw(st.none() | st.lists(finite, max_size=3))
    if isinstance(dtype, (pl.String, pl.Binary, pl.List)):
        said |= {"min_length": draw(st.none() | st.integers(0, 9)), "max_length": draw(st.none() | st.integers(0, 9))}
    if isinstance(dtype, pl.String):
        said["pattern"] = draw(st.none() | st.just("^[A-Z]{3}$"))
    return make_feature(name, dtype, Feature(**said), nullable=draw(st.booleans()))


def entities() -> st.SearchStrategy[Entity]:
    key_types = st.sampled_from([dtype for dtype in [*SIMPLE_TYPES.values(), INSTANT] if isinstance(dtype, KEY_TYPES)])
    keys = st.dictionaries(NAMES, key_types, min_size=1, max_size=3)
    return st.builds(lambda name, words, keys: Entity(name, **words, **keys), NAMES, _words(), keys)


def _words() -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries({}, optional={"description": TEXTS, "owner": TEXTS})


@st.composite
def sources(draw: st.DrawFn) -> Source:
    shared: dict[str, Any] = draw(_words()) | {
        "event_time": "at",
        "available_time": draw(st.none() | NAMES.filter(lambda name: name != "at")),
        "event_id": draw(st.none() | NAMES),
        "rename": draw(st.dictionaries(TEXTS, NAMES, max_size=2)),
        "lateness": draw(st.none() | st.sampled_from(["90m", "1w3d", timedelta(hours=30, microseconds=1)])),
    }
    name = draw(NAMES)
    kind = draw(st.sampled_from([ParquetSource, CSVSource, DeltaSource, SQLSource, FrameSource]))
    if kind is SQLSource:
        return SQLSource(name, draw(TEXTS), database=draw(st.none() | TEXTS), **shared)
    if kind is FrameSource:
        return FrameSource(name, pl.DataFrame({"at": [1], "x": ["a"]}), **shared)
    if kind is CSVSource:
        columns = draw(st.dictionaries(TEXTS, DTYPES | st.sampled_from([int, str, pl.Int8]), max_size=2))
        null_values = draw(st.lists(TEXTS, max_size=2))
        return CSVSource(name, draw(TEXTS), columns=columns, separator=draw(TEXTS), null_values=null_values, **shared)  # type: ignore[arg-type]  # lists are taken too
    return (ParquetSource if kind is ParquetSource else DeltaSource)(name, draw(TEXTS), **shared)


@st.composite
def views(draw: st.DrawFn) -> ViewSpec:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return ViewSpec(
        draw(NAMES), draw(entities()), draw(sources()), tuple(draw(features(name)) for name in names),
        draw(st.none() | st.integers(1, 2**62)), draw(st.none() | st.sampled_from(["15m", "*/5 * * * *"])),
        draw(st.sampled_from(["keep", "fail"])), draw(TEXTS), draw(TEXTS), draw(TEXTS), draw(TEXTS), draw(TAGS),
    )  # fmt: skip


def services() -> st.SearchStrategy[FeatureService]:
    pairs = st.dictionaries(NAMES, NAMES, max_size=2).map(lambda columns: tuple(columns.items()))
    one = st.builds(FeatureReference, NAMES, NAMES, st.none() | NAMES, TEXTS, pairs, TEXTS)
    references: st.SearchStrategy[Reference] = one | st.builds(ViewReference, NAMES, TEXTS, pairs)
    texts = {"description": TEXTS, "owner": TEXTS, "tags": TAGS}
    return st.builds(FeatureService, NAMES, st.lists(references, min_size=1, max_size=4), **texts)


@pytest.mark.parametrize("specs", [entities(), sources(), views(), services()], ids=["entity", "source", "view", "service"])
def test_what_is_written_is_read(specs: st.SearchStrategy[Spec]) -> None:
    @settings(deadline=None)  # the machine may be busy
    @given(specs)
    def holds(spec: Spec) -> None:
        text = to_json(spec)
        read = from_json(kind_of(spec), text)
        assert read == spec
        assert to_json(read) == text
        if isinstance(spec, ViewSpec) and isinstance(read, ViewSpec):
            assert data_digest(read) == data_digest(spec)

    holds()


@given(st.lists(NAMES, min_size=2, max_size=4, unique=True))
def test_join_keys_keep_their_order(names: list[str]) -> None:
    keys: dict[str, Any] = dict.fromkeys(names, str)
    read = from_json("entity", to_json(Entity("seat", **keys)))
    assert isinstance(read, Entity)
    assert list(read.keys) == names


def test_a_frame_stays_in_the_process() -> None:
    one, other = (FrameSource("rows", pl.DataFrame({"at": [], name: []}), event_time="at") for name in ("x", "y"))
    assert to_json(one) == to_json(other)


def test_defaults_are_not_written() -> None:
    assert to_plain(ParquetSource("rows", "data.parquet", event_time="at")) == {
        "kind": "parquet", "name": "rows", "path": "data.parquet", "event_time": "at",
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "plain"), [("entity", {"name": "x"}), ("view", {}), ("source", {"kind": "csv"})])
def test_what_is_no_spec_is_told(kind: str, plain: dict[str, Any]) -> None:
    with pytest.raises(RegistryError, match=f"holds a {kind} that this version of featurestore cannot read"):
        from_plain(kind, plain)


class Words(FeatureView, entity=Entity("airport", origin=str), source=ParquetSource("rows", "data", event_time="at")):
    """What it is."""

    temp: float | None = Feature(description="°F", unit="°F", owner="me", tags={"a": "b"}, pii=True)


class OtherWords(
    FeatureView,
    entity=Entity("airport", origin=str, description="Where", owner="you"),
    source=ParquetSource("rows", "data", event_time="at", description="Rows"),
    ttl="6h",
    schedule="15m",
    freshness="30m",
    on_reject="fail",
    name="words",
):
    temp: float | None


class OtherData(
    FeatureView, entity=Entity("airport", origin=str), source=ParquetSource("rows", "data", event_time="then"), name="words"
):
    temp: float | None


def test_a_digest_of_data_is_blind_to_words_ttl_and_schedule() -> None:
    assert data_digest(Words.__view__) == data_digest(OtherWords.__view__)
    assert data_digest(Words.__view__) != data_digest(OtherData.__view__)


def test_dates_bound_dates() -> None:
    feature = make_feature("day", pl.Date(), Feature(ge=date(2013, 1, 1)), nullable=False)
    assert msgspec.json.encode(feature.ge) == b'"2013-01-01"'
