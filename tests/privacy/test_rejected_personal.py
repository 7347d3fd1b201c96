"""What is kept of rejected rows of a view with personal features (S19, K19): counted always, kept where they can be erased."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureStore, FeatureView, FrameSource, last_n
from featurestore.testing import FakeClock
from tests.projects import store_at

NOW = FakeClock(1_600_000_000_000_000)
AT = NOW() - timedelta(hours=1)
SECRET = "zqxjkv.SECRETMAIL"
USER = Entity("user", user_id=int)
ROWS = {
    "user_id": [1, None, 2],
    "at": [AT, AT, AT],
    "email": [SECRET, SECRET, "b"],
    "phone": [SECRET] * 2 + ["c"],
    "level": [1, -1, -1],
}


def renamed(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.rename({"mail": "email", "uid": "user_id"})


def view_of(*, windows: bool = False, rename: bool = False) -> type[FeatureView]:
    rows = pl.DataFrame(ROWS)
    source = FrameSource("people", rows.rename({"email": "mail", "user_id": "uid"}) if rename else rows, event_time="at")
    body: dict[str, Any] = {"__module__": __name__}
    if windows:
        body |= {"__annotations__": {"mails": list[str], "levels": list[int]}}
        body |= {"mails": last_n("email", 2).over("1d", pii=True), "levels": last_n("level", 2).over("1d")}
    else:
        body |= {"__annotations__": {"email": str, "level": int}, "email": Feature(pii=True), "level": Feature(ge=0)}
    if rename:
        body["transform"] = staticmethod(renamed)
    return type("People", (FeatureView,), body, entity=USER, source=source)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with store_at(tmp_path / "kept", NOW) as opened:
        yield opened


def holding(store: FeatureStore) -> list[str]:
    """The files in which the secret is, read as bytes and as tables."""
    found = []
    for path in store.settings.root.rglob("*"):
        if path.is_file():
            cells = str(pl.read_parquet(path, hive_partitioning=False).rows()) if path.suffix == ".parquet" else ""
            found += [str(path)] if SECRET in cells or SECRET.encode() in path.read_bytes() else []
    return found


def test_s19_of_a_row_without_a_key_nothing_personal_is_kept(store: FeatureStore) -> None:
    store.apply([view_of()])
    [done] = store.materialize()
    assert done.rows_rejected == 2
    kept = {row["_reason"]: row for row in store.runs.rejected_rows("people").to_dicts()}
    unkeyed = kept["user_id is null"]
    assert (unkeyed["email"], unkeyed["phone"], unkeyed["level"]) == (None, None, -1)
    assert kept["level breaks ge=0"]["email"] == "b"


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("rename", [False, True])
def test_s19_rejecting_the_forgotten_again_keeps_nothing_of_them(windows: bool, rename: bool, store: FeatureStore) -> None:
    view = view_of(windows=windows, rename=rename)
    store.apply([view])
    store.materialize()
    store.admin.forget("user", {"user_id": 1})
    assert holding(store) == []
    names = ("uid", "mail") if rename else ("user_id", "email")
    faults: list[dict[str, Any]] = [
        {"at": None}, {names[0]: None}, {"at": datetime(2999, 1, 1, tzinfo=UTC)}, {"level": -5}, {names[0]: None, "at": None},
        {"level": None}, {},
    ]  # fmt: skip
    for fault in faults:
        row = {names[0]: 1, "at": AT, names[1]: SECRET, "phone": SECRET, "level": 1} | fault
        for given in (
            [row],
            pl.DataFrame([row], schema_overrides={names[0]: pl.Int64, "at": pl.Datetime("us", "UTC"), "level": pl.Int64}),
        ):
            [pushed] = store.push("people", given)
            assert pushed.rows_new == 0
            waiting = getattr(pushed, "rows_waiting", 0)
            assert sum(pushed.reasons.values()) + waiting == 1
            assert holding(store) == [], fault


def test_s19_without_personal_features_the_rows_are_kept_whole(store: FeatureStore) -> None:
    class People(FeatureView, entity=USER, source=FrameSource("people", pl.DataFrame(ROWS), event_time="at")):
        email: str

    store.apply([People])
    store.materialize()
    assert store.runs.rejected_rows("people").select("_reason", "phone").rows() == [("user_id is null", SECRET)]
