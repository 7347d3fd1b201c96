"""Windowed features that are ill defined: each is told where it stands, with what to do."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from featurestore import (
    Entity,
    Feature,
    FeatureView,
    ParquetSource,
    count,
    count_distinct,
    first,
    last,
    last_n,
    max_,
    mean,
    min_,
    quantile,
    std,
    sum_,
    var,
)
from featurestore.errors import DefinitionError

SOURCE = ParquetSource("flights", "data/*.parquet", event_time="at", event_id="flight")
ENTITY = Entity("carrier", carrier=str)


def view(annotations: dict[str, Any], features: dict[str, Callable[[], Any]], **options: Any) -> type[FeatureView]:
    """A view of these annotations, whose values are made as its class is read."""
    body = {"__annotations__": annotations, "__module__": __name__, **{name: make() for name, make in features.items()}}
    return type("Delays", (FeatureView,), body, entity=ENTITY, source=SOURCE, **options)


Wrong = tuple[Any, Callable[[], Any], str]
F, N = float | None, int
WRONG: dict[str, Wrong] = {
    "a tile that does not divide": (F, lambda: mean("x").over("1h", tile="7m"), "7m.*divide.*1h"),
    "a tile that divides one window only": (F, lambda: mean("x").over("1h", "90m", tile="1h"), "1h.*divide"),
    "a tile larger than the window": (F, lambda: mean("x").over("1h", tile="2h"), "divide"),
    "a tile of nothing": (F, lambda: mean("x").over("1h", tile="0m"), "tile.*longer than nothing"),
    "a window of nothing": (F, lambda: mean("x").over("0h"), "longer than nothing"),
    "a negative window": (F, lambda: mean("x").over(timedelta(hours=-1)), "longer than nothing"),
    "no duration": (F, lambda: mean("x").over("soon"), "not a duration"),
    "a number": (F, lambda: mean("x").over(3600), "not a duration"),
    "months": (F, lambda: mean("x").over("1mo"), "not a duration"),
    "no window": (F, lambda: mean("x").over(), "needs a window"),
    "never over": (F, lambda: mean("x"), "needs a window"),
    "one window twice": (F, lambda: mean("x").over("1h", "1h"), "1h"),
    "one window in two ways": (F, lambda: mean("x").over("1h", "60m"), "1h.*60m"),
    "q below 0": (F, lambda: quantile("x", -0.1).over("1h"), "from 0 to 1"),
    "q above 1": (F, lambda: quantile("x", 1.01).over("1h"), "from 0 to 1"),
    "q NaN": (F, lambda: quantile("x", float("nan")).over("1h"), "from 0 to 1"),
    "q no number": (F, lambda: quantile("x", "median").over("1h"), "from 0 to 1"),
    "n of 0": (list[float], lambda: last_n("x", 0).over("1h"), "1 or more"),
    "n negative": (list[float], lambda: last_n("x", -3).over("1h"), "1 or more"),
    "n no whole number": (list[float], lambda: last_n("x", 2.0).over("1h"), "1 or more"),
    "an input that is no column": (F, lambda: mean(3).over("1h"), "column"),
    "a filter that is no expression": (F, lambda: mean("x", where="x > 1").over("1h"), "where.*expression"),
    "a count that may be null is as good, but text is not": (str, lambda: count().over("1h"), "count.*str"),
    "a count of float": (float, lambda: count("x").over("1h"), "count.*float"),
    "distinct values as a list": (list[str], lambda: count_distinct("x").over("1h"), "count_distinct.*[Ll]ist"),
    "a mean of int": (int | None, lambda: mean("x").over("1h"), "mean.*int"),
    "a deviation of text": (str | None, lambda: std("x").over("1h"), "std.*str"),
    "a variance of int": (int | None, lambda: var("x").over("1h"), "var.*int"),
    "a sum of text": (str, lambda: sum_("x").over("1h"), "sum.*str"),
    "a quantile of int": (int | None, lambda: quantile("x", 0.5).over("1h"), "quantile.*int"),
    "a list that is none": (float, lambda: last_n("x", 2).over("1h"), "last_n.*float|last_2.*float"),
    "a first that is a list": (list[float] | None, lambda: first("x").over("1h"), "first.*[Ll]ist"),
    "a least list": (list[float] | None, lambda: min_("x").over("1h"), "min.*[Ll]ist"),
}
for _name, _make in {"mean": mean, "min": min_, "max": max_, "std": std, "var": var, "first": first, "last": last}.items():
    WRONG[f"a {_name} that is never null"] = (float, lambda make=_make: make("x").over("1h"), rf"{_name}.*null.*float \| None")
WRONG["a quantile that is never null"] = (float, lambda: quantile("x", 0.5).over("1h"), r"quantile.*null.*float \| None")


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(name: str) -> None:
    annotation, make, told = WRONG[name]
    with pytest.raises(DefinitionError, match=told):
        view({"delay": annotation}, {"delay": make})


def test_a_fault_tells_its_place() -> None:
    with pytest.raises(DefinitionError, match=r"test_window_definitions\.py:\d+"):

        class Delays(FeatureView, entity=ENTITY, source=SOURCE):
            delay: float = mean("x").over("1h")


def test_a_windowed_view_has_no_ttl() -> None:
    with pytest.raises(DefinitionError, match=r"ttl.*window"):
        view({"delay": F}, {"delay": lambda: mean("x").over("1h")}, ttl="1d")


@pytest.mark.parametrize("plain", [{}, {"temp": lambda: Feature(description="plain")}])
def test_windowed_and_plain_features_do_not_mix(plain: dict[str, Callable[[], Any]]) -> None:
    with pytest.raises(DefinitionError, match=r"mixes.*'temp'.*two views"):
        view({"delay": F, "temp": F}, {"delay": lambda: mean("x").over("1h"), **plain})


def test_a_windowed_feature_has_a_type() -> None:
    with pytest.raises(DefinitionError, match="delay has no type"):
        view({"other": F}, {"delay": lambda: mean("x").over("1h"), "other": lambda: mean("x").over("1h")})


def test_two_columns_of_one_name() -> None:
    with pytest.raises(DefinitionError, match="delay_1h"):
        view({"delay": F, "delay_1h": F}, {"delay": lambda: mean("x").over("1h", "2h"), "delay_1h": lambda: max_("x").over("1h")})


def test_a_name_that_is_the_stores_own_or_a_key() -> None:
    for name in ("carrier", "event_time", "available_time"):
        with pytest.raises(DefinitionError, match=r"key|own"):
            view({name: F}, {name: lambda: mean("x").over("1h")})


def test_a_column_that_is_not_there_is_told_at_apply(tmp_path: Any) -> None:
    from featurestore import FeatureStore

    (tmp_path / "data").mkdir()
    pl.DataFrame({"carrier": ["UA"], "at": [0], "flight": [1], "delay": [1.0]}).with_columns(
        pl.col("at").cast(pl.Datetime("us", "UTC"))
    ).write_parquet(tmp_path / "data" / "0.parquet")
    for make in (
        lambda: mean("dely").over("1h"),
        lambda: mean(pl.col("delay") * pl.col("dely")).over("1h"),
        lambda: mean("delay", where=pl.col("dely") > 1).over("1h"),
    ):
        with FeatureStore(tmp_path, project="p") as store, pytest.raises(DefinitionError, match=r"dely.*Did you mean.*delay"):
            store.apply([view({"late": F}, {"late": make})])


def test_windows_may_be_written_as_timedelta() -> None:
    made = view({"delay": F, "n": N}, {"delay": lambda: mean("x").over(timedelta(hours=1), "1d"), "n": lambda: count().over("2h")})
    assert made.delay_1h
    assert made.delay["1h"]
    assert repr(made).count("\n") == 3


def test_a_window_that_is_not_there_is_told() -> None:
    made = view({"delay": F}, {"delay": lambda: mean("x").over("1h", "1d")})
    with pytest.raises(Exception, match=r"1h.*1d"):
        made.delay["3h"]
