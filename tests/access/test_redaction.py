"""No value of a personal column in an error: not in its text, its causes, the registry, logs, webhooks or streams (K13)."""

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
import redis

from featurestore import CSVSource, Entity, Feature, FeatureStore, FeatureView, FrameSource, OnDemandView
from featurestore.access.redaction import discreetly, without_values
from featurestore.definitions.catalog import BoundView
from featurestore.errors import DefinitionError, FeatureStoreError, MaterializeError
from featurestore.registry.error_scrub import CLEARED
from featurestore.testing import FakeClock
from tests.projects import store_at

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
SECRET = "ann.SECRETMAIL"
SALARY = 918273.645
USER = Entity("user", user_id=int)


def cast(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(pl.col("email").cast(pl.Int64).cast(pl.String))


def eager(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.collect().with_columns(pl.col("email").str.to_date("%Y").cast(pl.String)).lazy()


def raised(rows: pl.LazyFrame) -> pl.LazyFrame:
    for email in rows.collect()["email"]:
        raise ValueError(f"{email} is unknown, {SALARY}")
    return rows


def chained(rows: pl.LazyFrame) -> pl.LazyFrame:
    try:
        return raised(rows)
    except ValueError as error:
        raise KeyError(SECRET) from error


def mapped(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(pl.col("email").map_elements(lambda text: {}[text], pl.String))


def panicking(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(pl.col("email").str.slice(0).replace_strict({"x": "y"}))


TRANSFORMS = (cast, eager, raised, chained, mapped, panicking)


def view_of(transform: Any, *, pii: bool = True, schedule: str | None = None) -> type[FeatureView]:
    rows = pl.DataFrame({"user_id": [1, 2], "at": [NOON, NOON], "email": [SECRET, "123"], "salary": [SALARY, 1.0]})
    source = FrameSource("people", rows, event_time="at")
    body = {"__annotations__": {"email": str, "salary": float}, "__module__": __name__, "email": Feature(pii=pii)}
    body["transform"] = staticmethod(transform)
    return type("People", (FeatureView,), body, entity=USER, source=source, schedule=schedule)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with store_at(tmp_path / "discreet", FakeClock(1_600_000_000_000_000)) as opened:
        yield opened


def keeps_quiet(error: BaseException) -> str:
    """Checks all that an error and what it was raised from may print; returns its text."""
    printed = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    for each in (SECRET, str(SALARY), "ann.SECRET"):
        assert each not in printed
    cause = error.__cause__ or error.__context__
    assert cause is None or isinstance(cause, FeatureStoreError)
    return str(error)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda each: each.__name__)
def test_what_a_transform_raises_tells_no_value(transform: Any, store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: store.apply([view_of(transform)]),
        lambda: store.materialize(),
        lambda: store.materialize(dry_run=True),
        lambda: store.push("people", [{"user_id": 3, "at": NOON, "email": SECRET, "salary": SALARY}]),
    ]
    with pytest.raises(DefinitionError) as caught:
        calls[0]()
    assert "the transform of view 'people' fails: " in keeps_quiet(caught.value)
    quiet = view_of(lambda rows: rows)
    store.apply([quiet])
    store.components.definition_loader.bind = lambda applied: BoundView(applied, transform)  # type: ignore[method-assign]  # as if it failed on these rows only
    for call in calls[1:]:
        with pytest.raises(FeatureStoreError) as failed:
            call()
        keeps_quiet(failed.value)
    for run in store.runs.list():
        assert SECRET not in run.error
    assert SECRET not in str(store.admin.doctor())
    assert SECRET not in caplog.text


def test_a_failed_cast_is_told_by_column_types_and_counts(store: FeatureStore) -> None:
    with pytest.raises(DefinitionError) as caught:
        store.apply([view_of(cast)])
    assert "a cast from str to i64 fails in column 'email' for" in keeps_quiet(caught.value)
    with pytest.raises(DefinitionError) as caught:
        store.apply([view_of(raised)])
    assert f"ValueError in {Path(__file__).name}, line" in keeps_quiet(caught.value)


@pytest.mark.parametrize("transform", TRANSFORMS[:2], ids=lambda each: each.__name__)
def test_a_view_without_personal_features_tells_them(transform: Any, store: FeatureStore) -> None:
    with pytest.raises(DefinitionError, match=r"ann\.SECRETMAIL"):
        store.apply([view_of(transform, pii=False)])


def test_a_source_that_cannot_be_read_tells_no_value(tmp_path: Path, store: FeatureStore) -> None:
    (tmp_path / "people.csv").write_text(f"user_id,at,email\n1,2013-07-01,x\n2,{SECRET},y\n")

    class People(FeatureView, entity=USER, source=CSVSource("people", str(tmp_path / "people.csv"), event_time="at")):
        email: str = Feature(pii=True)

    try:
        store.apply([People])
        store.materialize()
    except FeatureStoreError as error:
        keeps_quiet(error)
    for run in store.runs.list():
        assert SECRET not in run.error
    assert SECRET not in str(store.admin.doctor())


class Hook(BaseHTTPRequestHandler):
    told: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.told.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def test_the_scheduler_its_log_and_the_webhook_tell_no_value_and_forget_clears_what_was_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    folder = tmp_path / "scheduled"
    settings = {
        "webhook": f"http://127.0.0.1:{server.server_port}",
        "schedule": {"max_attempts": 1},
        "maintenance": {"schedule": ""},
    }
    try:
        with store_at(folder, FakeClock(1_600_000_000_000_000), **settings) as store:
            store.apply([view_of(lambda rows: rows, schedule="1h")])
            store.components.definition_loader.bind = lambda applied: BoundView(applied, raised)  # type: ignore[method-assign]  # as above
            store.scheduler.create().once()
            assert Hook.told
            assert SECRET not in "".join([*Hook.told, caplog.text, str(store.status()), str(store.admin.doctor())])
            # What a former version kept there.
            database, tables = store.components.registry.database, store.components.registry.database.tables
            with database.writing() as connection:
                connection.execute(tables.run.update().values(error=f"failed for ['{SECRET}']"))
                connection.execute(tables.due.update().values(error=f"failed for ['{SECRET}']"))
            with database.writing() as connection:
                connection.execute(tables.due.update().values(error=f"failed again for ['{SECRET}-2']"))
            assert holding(folder)
            counted = store.admin.forget("user", {"user_id": 1}, dry_run=True)
            report = store.admin.forget("user", {"user_id": 1})
            assert [(each.place, each.rows) for each in report] == [(each.place, each.rows) for each in counted]
            assert ("errors", "people") in {(each.place, each.name) for each in report}
            assert holding(folder) == []
            assert {run.error for run in store.runs.list()} <= {CLEARED, ""}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def holding(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_what_is_computed_of_personal_features_is_told_without_values(store: FeatureStore) -> None:
    class Pay(OnDemandView, inputs=["people"]):
        number: int = Feature(expression=pl.col("email").cast(pl.Int64))
        tax: float = Feature(expression=pl.col("salary") * 2, le=10)

    store.apply([view_of(lambda rows: rows), Pay])
    store.materialize()
    spine = pl.DataFrame({"user_id": [1], "t": [NOON]})
    for features in ("pay.number", "pay"):
        for call in (lambda: store.online([features], [{"user_id": 1}], at=NOON).to_dicts(),  # noqa: B023 - called at once
                     lambda: store.training_frame(spine, [features], time="t")):  # noqa: B023 - as above  # fmt: skip
            with pytest.raises(FeatureStoreError) as caught:
                call()
            keeps_quiet(caught.value)


class QuotingError(FeatureStoreError):
    """An error of ours that quotes."""


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("'ann' is not a valid Int64 for the column 'age'", "'…' is not a valid Int64 for the column 'age'"),
        ('"ann" in `ann`, [\'ann\', "bob"]', '"…" in `…`, […]'),
        ("3 rows of 'age' are null", "3 rows of 'age' are null"),
        ("it's 'a\\'nn' there", "it'…'a\\'nn' there"),
    ],
)
def test_what_ours_quote_is_shown_where_it_is_a_name(text: str, left: str) -> None:
    assert "ann" not in (told := str(without_values(QuotingError(text), {"age"}))) or told == left
    if "it's" not in text:
        assert told == left


def test_foreign_errors_keep_their_class_and_no_text() -> None:
    view = view_of(lambda rows: rows).__view__

    def work() -> None:
        raise OverflowError(f"{SECRET} is too large")

    with pytest.raises(MaterializeError, match="OverflowError") as caught:
        discreetly([view], work)
    keeps_quiet(caught.value)


@pytest.mark.parametrize("value", [SECRET, str(SALARY), "soon"])
def test_the_reason_why_an_entry_is_set_aside_tells_no_value(value: str, valkey_url: str, tmp_path: Path) -> None:
    from featurestore import StreamSource
    from featurestore.adapters import open_stream

    columns = {"user_id": int, "at": datetime, "email": str, "salary": pl.Int8}
    source = StreamSource("people", valkey_url, topic=f"discreet-{value}", event_time="at", columns=columns, payload=None)

    class People(FeatureView, entity=USER, source=source):
        email: str = Feature(pii=True)

    with store_at(tmp_path / "stream", FakeClock(1_600_000_000_000_000)) as store, redis.Redis.from_url(valkey_url) as server:
        store.apply([People])
        with closing(open_stream(source, store.settings.project, 60.0)):
            pass
        entry = {"user_id": "1", "at": "2013-07-01", "email": SECRET, "salary": "1"}
        for name in ("at", "salary", "user_id"):
            server.xadd(source.topic, {**entry, name: value})
        store.streams.run([source], once=True)
        reasons = [each.reason for each in store.streams.dead_letters.list(source)]
        assert len(reasons) == 3
        assert not [each for each in reasons if value in each]
