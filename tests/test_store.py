"""The facade: applying, materializing, versions, and several processes on one project."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureService, FeatureStore
from featurestore.clock import from_micros
from featurestore.definitions.reference import ViewReference
from featurestore.errors import (
    BreakingChangeError,
    ConcurrentApplyError,
    ConfigError,
    DefinitionError,
    MaterializeError,
    NotFoundError,
    RejectedRowsError,
    RequestError,
    SourceError,
)
from featurestore.project.collect import Definitions
from featurestore.testing import FakeClock
from featurestore.testing.waiting import wait_until
from tests.oracle import Row
from tests.projects import frame_of, memory_of, parquet_of, store_at, view_of

KEYS, FEATURES = {"k": str}, {"x": float | None, "n": int | None}
POLARS_KEYS, POLARS = {"k": pl.String}, {"x": pl.Float64, "n": pl.Int64}
ROWS = [Row(("a",), 1, 1, (1.0, 1)), Row(("a",), 5, 7, (5.0, 5)), Row(("b",), 3, 3, (None, -3))]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(10)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Any:
    with store_at(tmp_path / "project", clock) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Any:
    return parquet_of(tmp_path / "data", [frame_of(ROWS, POLARS_KEYS, POLARS)])


def values(store: FeatureStore, view: Any = "v", **options: Any) -> list[Any]:
    return [row["x"] for row in store.online(view, [{"k": "a"}, {"k": "b"}], **options)]


def test_a_changed_view_gets_a_new_version_and_unchanged_ones_are_not_touched(store: FeatureStore, source: Any) -> None:
    one, other = view_of(source, KEYS, FEATURES), view_of(source, KEYS, FEATURES, name="w")
    store.apply([one, other])
    store.materialize()
    assert store.apply([one, other]).is_empty
    store.apply([view_of(source, KEYS, {"x": float | None})])
    standing = {each.view: each for each in store.status()}
    assert (standing["v"].version, standing["v"].data_version, standing["v"].rows) == (2, 2, 0)
    assert (standing["w"].version, standing["w"].data_version, standing["w"].rows) == (1, 1, 3)


def test_words_schedule_and_ttl_change_without_recomputing(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    plan = store.apply([view_of(source, KEYS, FEATURES, ttl="3us", owner="someone", schedule="15m")])
    assert "recompute" not in str(plan)
    [standing] = store.status()
    assert (standing.version, standing.data_version, standing.rows) == (2, 1, 3)
    assert values(store, at=from_micros(8)) == [5.0, None]
    assert values(store, at=from_micros(9)) == [None, None]


def test_a_removal_that_breaks_a_service_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    folder = tmp_path / "definitions"
    folder.mkdir()
    frame_of(ROWS, POLARS_KEYS, POLARS).write_parquet(tmp_path / "rows.parquet")
    body = """
from featurestore import Entity, FeatureService, FeatureView, ParquetSource

class V(FeatureView, entity=Entity("e", k=str), source=ParquetSource("rows", "rows.parquet", event_time="event")):
    x: float | None
    n: int | None

svc = FeatureService("svc", [V])
other = FeatureService("other", [V.x])
"""
    (folder / "all.py").write_text(body)
    with store_at(tmp_path, clock) as store:
        store.apply()
        store.materialize()
        (folder / "all.py").write_text(body.replace("    n: int | None\n", "").replace("[V])", '["v.x", "v.n"])'))
        with pytest.raises(DefinitionError, match=r"all\.py:\d+.*svc.*v\.n"):
            store.apply()
        (folder / "all.py").write_text(body.replace('svc = FeatureService("svc", [V])\n', ""))
        store.apply()
        assert set(store.catalog.services) == {"other"}
        with pytest.raises(BreakingChangeError, match="other"):
            store.apply([view_of(memory_of(frame_of([], POLARS_KEYS, POLARS)), KEYS, {"n": int | None})])


def test_an_apply_elsewhere_is_noticed_without_asking_the_registry_on_every_read(
    tmp_path: Path, clock: FakeClock, source: Any
) -> None:
    with (
        store_at(tmp_path / "project", clock, catalog_refresh="20ms") as reader,
        store_at(tmp_path / "project", clock, online="lmdb:other") as writer,
    ):
        writer.apply([view_of(source, KEYS, FEATURES)])
        assert values(reader) == [None, None]
        asked = []
        load = reader.components.registry.load
        reader.components.registry.load = lambda: asked.append(1) or load()  # type: ignore[method-assign,func-returns-value]  # counts
        values(reader)
        assert asked == []
        writer.apply([FeatureService("svc", ["v.x"])])

        def noticed() -> bool:
            try:
                return reader.online("svc", [{"k": "a"}]).to_dicts() == [{"k": "a", "x": None}]
            except NotFoundError:
                return False

        wait_until(noticed, "the apply was not noticed")


def test_a_definition_that_changed_since_the_apply_is_told(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES, transform=lambda rows: rows.with_columns(x=pl.col("x") + 1))])
    store.components.definition_loader._given = Definitions()
    with pytest.raises(DefinitionError, match="has a transform, which lives in its definition, and that is not here"):
        store.materialize()
    changed = view_of(source, KEYS, FEATURES, transform=lambda rows: rows.with_columns(x=pl.col("x") + 2))
    store.components.definition_loader.take(store.components.definition_loader.load([changed]), partial=True)
    with pytest.raises(DefinitionError, match="is defined otherwise than it was applied"):
        store.materialize()


def test_a_process_without_definitions_serves_and_trains_and_materializes_what_has_no_transform(
    store: FeatureStore, source: Any, clock: FakeClock
) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.close()
    with store_at(store.settings.root, clock) as other:
        assert other.materialize()[0].rows_written == 3
        assert values(other) == [5.0, None]
        spine = pl.DataFrame({"k": ["a"], "t": [from_micros(6)]})
        assert other.training_frame(spine, "v", time="t")["x"].to_list() == [1.0]


def test_s19_on_reject_fail_writes_nothing_and_goes_on_once_the_source_is_mended(store: FeatureStore, tmp_path: Path) -> None:
    bad = [*ROWS, Row(("c",), None, 1, (1.0, 1))]
    source = parquet_of(tmp_path / "data", [frame_of(bad, POLARS_KEYS, POLARS)])
    view = view_of(source, KEYS, FEATURES, on_reject="fail")
    store.apply([view])
    for _ in range(2):
        with pytest.raises(RejectedRowsError, match=r"1 rows of 'v' were rejected \(1 × event is null\)"):
            store.materialize()
    assert store.status()[0].rows == 0
    assert values(store) == [None, None]
    assert store.runs.rejected_rows(view)["k"].to_list() == ["c", "c"]
    frame_of(ROWS, POLARS_KEYS, POLARS).write_parquet(tmp_path / "data" / "0.parquet")
    assert store.materialize()[0].rows_written == 3
    assert [run.state for run in store.runs.list(view)] == ["done", "failed", "failed"]


def test_a_dry_run_writes_nothing(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    [summary] = store.materialize(dry_run=True)
    assert (summary.rows_read, summary.rows_written) == (3, 0)
    assert (store.status()[0].rows, store.runs.list()) == (0, [])


def test_start_reads_a_span_again_and_leaves_the_cursor(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    assert store.materialize(start=from_micros(2), end=from_micros(3))[0].rows_written == 1
    assert store.materialize()[0].rows_written == 2
    assert store.materialize(start=from_micros(0))[0].rows_written == 0
    assert store.status()[0].rows == 3


def test_s18_a_late_row_is_never_skipped(store: FeatureStore, source: Any, tmp_path: Path, clock: FakeClock) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    clock.micros = 20
    late = [Row(("a",), 2, 15, (2.0, 2)), Row(("b",), 0, 15, (0.0, 0)), Row(("a",), 9, 16, (9.0, 9))]
    frame_of(late, POLARS_KEYS, POLARS).write_parquet(tmp_path / "data" / "late.parquet")
    assert store.materialize()[0].rows_written == 3
    assert values(store) == [9.0, None]
    spine = pl.DataFrame({"k": ["a", "a", "a"], "t": [from_micros(t) for t in (4, 15, 16)]})
    assert store.training_frame(spine, "v", time="t")["x"].to_list() == [1.0, 5.0, 9.0]
    assert store.training_frame(spine, "v", time="t", as_known=False)["x"].to_list() == [2.0, 9.0, 9.0]


def test_a_source_that_is_not_there_or_changed_is_told_before_anything_is_written(
    store: FeatureStore, source: Any, tmp_path: Path
) -> None:
    plan = store.apply([view_of(source, KEYS, FEATURES)])
    assert plan.warnings == ()
    (tmp_path / "data" / "0.parquet").unlink()
    with pytest.raises(SourceError, match="data"):
        store.materialize()
    frame_of(ROWS, POLARS_KEYS, POLARS).drop("x").write_parquet(tmp_path / "data" / "0.parquet")
    with pytest.raises((SourceError, DefinitionError), match="'x'"):
        store.materialize()
    assert store.status()[0].rows == 0


def test_apply_warns_of_a_source_that_is_not_there_yet(store: FeatureStore, tmp_path: Path) -> None:
    from featurestore import ParquetSource

    plan = store.apply([view_of(ParquetSource("rows", str(tmp_path / "none/*.parquet"), event_time="event"), KEYS, FEATURES)])
    assert "could not be checked against its source" in plan.warnings[0]


def test_d17_a_plan_names_what_no_digest_can_take_in(store: FeatureStore, source: Any) -> None:
    table = pl.LazyFrame({"k": ["a"]})
    limits = {1.0, 2.0}
    joined = view_of(source, KEYS, FEATURES, transform=lambda rows: rows.join(table, on="k", how="left"))
    told = view_of(source, KEYS, FEATURES, name="w", transform=lambda rows: rows.filter(pl.col("x").is_in(list(limits))))
    [warning] = store.apply([joined, told]).warnings
    assert warning.startswith("view 'v': its transform uses table (LazyFrame); a change there does not change the view")
    assert store.plan([joined, told]).warnings == (warning,)


def test_the_spine_may_come_in_many_forms(store: FeatureStore, source: Any) -> None:
    import pandas as pd

    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    frame = pl.DataFrame({"k": ["a", "b"], "t": [from_micros(8), from_micros(8)]})
    frame.write_parquet(store.settings.root / "spine.parquet")
    expected = store.training_frame(frame, "v", time="t")
    forms: list[Any] = [
        frame.lazy(), frame.to_arrow(), frame.to_dicts(), frame.to_dict(as_series=False), "spine.parquet",
        store.settings.root / "spine.parquet",
    ]  # fmt: skip
    for form in forms:
        assert store.training_frame(form, ["v"], time="t").equals(expected, null_equal=True)
    pandas = pd.DataFrame({"k": ["a", "b"], "t": pd.to_datetime([8, 8], unit="us", utc=True)})
    assert store.training_frame(pandas, "v", time="t").select("x", "n").equals(expected.select("x", "n"), null_equal=True)
    by_sql = store.training_frame("select k, event_time as t from v where k = 'a'", "v", time="t")
    assert by_sql.sort("t")["x"].to_list() == [1.0, 1.0]


def test_rows_may_come_in_many_forms(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    forms: list[Any] = [[{"k": "a"}, {"k": "b"}], {"k": ["a", "b"]}, pl.DataFrame({"k": ["a", "b"]}), ({"k": key} for key in "ab")]
    for form in forms:
        assert store.online("v", form).to_dicts() == [{"k": "a", "x": 5.0, "n": 5}, {"k": "b", "x": None, "n": -3}]
    for wrong in ({"k": "a"}, 5, "k", ["a"]):
        with pytest.raises(RequestError):
            store.online("v", wrong)
    assert store.online("v", []).to_dicts() == []
    assert store.online("v", []).to_polars().height == 0


def test_online_async_equals_online(store: FeatureStore, source: Any) -> None:
    import asyncio

    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    found = asyncio.run(store.online_async("v", [{"k": "a"}, {"k": None}]))
    assert found.to_dicts() == store.online("v", [{"k": "a"}, {"k": None}]).to_dicts()


def test_misspelt_names_are_met_with_near_ones(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES, name="weather"), FeatureService("model", ["weather.x"])])
    for wrong, near in (("wether", "weather"), ("weather.xx", "weather.x"), ("modell", "model")):
        with pytest.raises(NotFoundError, match=f"Did you mean .*{near}"):
            store.online(wrong, [{"k": "a"}])
    with pytest.raises(NotFoundError, match="weather"):
        store.materialize(["wether"])
    with pytest.raises(RequestError, match=r"no join key 'kk'\. Did you mean 'k'"):
        store.online(ViewReference("weather").on(kk="k"), [{"k": "a"}])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("online", "memcached://x"), ("engine", "spark"), ("offline", "hdfs://bucket"), ("registry", "oracle://x")],
)
def test_an_address_that_names_nothing_is_told(setting: str, value: str, tmp_path: Path) -> None:
    with FeatureStore(tmp_path, **{setting: value}) as store, pytest.raises(ConfigError, match=value.split(":")[0]):
        use(store)


def use(store: FeatureStore) -> None:
    """Has every part of a store opened."""
    store.apply([view_of(memory_of(frame_of(ROWS, POLARS_KEYS, POLARS)), KEYS, FEATURES)])
    store.materialize()
    store.training_frame(pl.DataFrame({"k": ["a"], "t": [from_micros(1)]}), "v", time="t")


def test_settings_that_are_wrong_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        FeatureStore(tmp_path / "none")
    (tmp_path / "featurestore.toml").write_text("projct = 'x'")
    with pytest.raises(ConfigError, match="Did you mean 'project'"):
        FeatureStore(tmp_path)
    (tmp_path / "featurestore.toml").write_text("= broken")
    with pytest.raises(ConfigError, match="not valid TOML"):
        FeatureStore(tmp_path)


def test_settings_come_from_the_file_then_variables_then_keywords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "featurestore.toml").write_text('project = "file"\nthreads = 1\nchunk_rows = 7\n')
    monkeypatch.setenv("FEATURESTORE_PROJECT", "variable")
    monkeypatch.setenv("FEATURESTORE_THREADS", "2")
    settings = FeatureStore(tmp_path, project="keyword").settings
    assert (settings.project, settings.threads, settings.chunk_rows) == ("keyword", 2, 7)


def test_two_projects_on_one_store_do_not_meet(tmp_path: Path, clock: FakeClock, valkey_url: str) -> None:
    for project, x in (("one", 1.0), ("two", 2.0)):
        with store_at(tmp_path / "shared", clock, online=valkey_url, project=project) as opened:
            opened.apply([view_of(memory_of(frame_of([Row(("a",), 1, 1, (x, 1))], POLARS_KEYS, POLARS)), KEYS, FEATURES)])
            opened.materialize()
    for project, x in (("one", 1.0), ("two", 2.0)):
        with store_at(tmp_path / "shared", clock, online=valkey_url, project=project) as opened:
            assert values(opened)[0] == x


def test_a_registry_that_is_lost_loses_no_rows(store: FeatureStore, source: Any, tmp_path: Path, clock: FakeClock) -> None:
    view = view_of(source, KEYS, FEATURES)
    store.apply([view])
    store.materialize()
    store.close()
    (store.settings.root / ".featurestore" / "registry.db").unlink()
    clock.micros = 20
    more = [Row(("c",), 15, 15, (15.0, 1))]
    frame_of(more, POLARS_KEYS, POLARS).write_parquet(tmp_path / "data" / "1.parquet")
    with store_at(store.settings.root, clock) as anew:
        anew.apply([view])
        assert anew.materialize()[0].rows_written == 1
        assert anew.status()[0].rows == 4
        assert [row["x"] for row in anew.online("v", [{"k": "a"}, {"k": "c"}])] == [5.0, 15.0]
        assert [run.seq for run in anew.runs.list()] == [2]


def test_a_new_online_store_is_filled_from_the_history(store: FeatureStore, source: Any, clock: FakeClock) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    with store_at(store.settings.root, clock, online="lmdb:other") as other:
        assert values(other) == [None, None]
        assert other.admin.rebuild_online() == {"v": 2}
        assert other.admin.rebuild_online(["v"]) == {"v": 0}
        assert values(other) == values(store) == [5.0, None]


def test_a_view_that_fails_does_not_keep_the_others_from_being_done(store: FeatureStore, source: Any, tmp_path: Path) -> None:
    gone = parquet_of(tmp_path / "gone", [frame_of(ROWS, POLARS_KEYS, POLARS)], name="gone")
    bad = [view_of(gone, KEYS, FEATURES, name="a"), view_of(gone, KEYS, FEATURES, name="b")]
    store.apply([*bad, view_of(source, KEYS, FEATURES)])
    (tmp_path / "gone" / "0.parquet").unlink()
    with pytest.raises(SourceError, match="gone"):
        store.materialize(["a", "v"])
    assert values(store) == [5.0, None]
    with pytest.raises(MaterializeError, match=r"(?s)2 of 3 views failed; the others are done\..*gone.*gone"):
        store.materialize()


def test_a_repeated_run_with_nothing_new_writes_nothing_online(store: FeatureStore) -> None:
    store.apply([view_of(memory_of(frame_of(ROWS, POLARS_KEYS, POLARS)), KEYS, FEATURES)])
    assert store.materialize()[0].rows_online == 2
    store.components.online.write = None  # type: ignore[assignment,method-assign]  # is not called
    [again] = store.materialize()
    assert (again.rows_read, again.rows_written, again.rows_online) == (3, 0, 0)


def test_a_plan_agreed_to_is_not_applied_after_another(store: FeatureStore, source: Any) -> None:
    view = view_of(source, KEYS, FEATURES)
    plan = store.plan([view])
    store.apply([FeatureService("svc", ["v.x"]), view])
    with pytest.raises(ConcurrentApplyError, match="view 'v'"):
        store.apply([view_of(source, KEYS, {"x": float | None}), FeatureService("svc", ["v.x"])], expected=plan)
    assert store.catalog.revision == 1


def test_a_source_of_the_wrong_shape_is_a_fault_at_apply(store: FeatureStore, source: Any) -> None:
    wrong = replace(source, event_time="evnt")
    with pytest.raises(DefinitionError, match=r"evnt.*Did you mean 'event'"):
        store.apply([view_of(wrong, KEYS, FEATURES)])


def test_one_view_that_differs_from_what_is_applied_does_not_stop_the_others(store: FeatureStore, source: Any) -> None:
    one, other = view_of(source, KEYS, FEATURES), view_of(source, KEYS, FEATURES, name="w")
    store.apply([one, other])
    store.components.definition_loader.take(
        store.components.definition_loader.load([view_of(source, KEYS, {"x": float | None})]), partial=True
    )
    with pytest.raises(DefinitionError, match="is defined otherwise"):
        store.materialize()
    assert {each.view: each.rows for each in store.status()} == {"v": 0, "w": 3}


def test_a_plan_that_is_only_looked_at_changes_nothing(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.plan([view_of(source, KEYS, {"x": float | None})])
    assert store.materialize()[0].rows_written == 3


def test_an_end_in_the_future_is_refused(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    with pytest.raises(RequestError, match="lies in the future"):
        store.materialize(end=from_micros(11))


def test_a_feature_may_be_asked_for_twice(store: FeatureStore, source: Any) -> None:
    view = view_of(source, KEYS, FEATURES)
    store.apply([view])
    store.materialize()
    features = [view.x, view.x.alias("y"), view.prefix("p_"), view.x.alias("_row")]
    frame = store.training_frame(pl.DataFrame({"k": ["a"], "t": [from_micros(9)]}), features, time="t")
    online = store.online(features, [{"k": "a"}]).to_polars()
    assert frame.drop("t").equals(online)
    assert frame.row(0)[2:] == (5.0, 5.0, 5.0, 5, 5.0)


def test_event_times_at_the_ends_of_the_calendar(store: FeatureStore) -> None:
    moments = [datetime(1, 1, 1, tzinfo=UTC), datetime(999, 1, 1, tzinfo=UTC), from_micros(1)]
    frame = pl.DataFrame({"k": ["a", "b", "c"], "event": moments, "x": [1.0, 2.0, 3.0], "n": [1, 2, 3]})
    beyond = frame[:1].with_columns(pl.lit(-(10**17)).cast(pl.Datetime("us", "UTC")).alias("event"))
    store.apply([view_of(memory_of(pl.concat([frame, beyond]), late=False), KEYS, FEATURES)])
    for _ in range(2):
        assert store.materialize()[0].reasons == {"event lies outside the years 1 to 9999": 1}
    assert store.status()[0].rows == 3
    assert values(store) == [1.0, 2.0]


@pytest.mark.parametrize("ttl", [None, "1000d"])
@pytest.mark.parametrize("online", ["lmdb:.featurestore/online", "valkey"])
def test_s16_a_ttl_that_became_longer_reaches_what_is_online(
    ttl: str | None, online: str, tmp_path: Path, clock: FakeClock, request: pytest.FixtureRequest
) -> None:
    """Once the history is written online again, as the plan says; until then what expired may be gone."""
    address = request.getfixturevalue("valkey_url") if online == "valkey" else online
    source = parquet_of(tmp_path / "data", [frame_of(ROWS, POLARS_KEYS, POLARS)])
    with store_at(tmp_path / "project", clock, online=address, project=f"ttl{ttl}") as opened:
        opened.apply([view_of(source, KEYS, FEATURES, ttl="1s")])
        opened.materialize()
        plan = opened.apply([view_of(source, KEYS, FEATURES, ttl=ttl)])
        assert "rebuild" in str(plan)
        opened.admin.rebuild_online()
        clock.micros = 10 * 86_400_000_000
        opened.components.online.sweep()
        assert values(opened) == [5.0, None]
        assert opened.online("v", [{"k": "a"}]).status["x"] == ["present"]
