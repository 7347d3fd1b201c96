"""Forgetting an entity that has, or had, other names, other keys, or keys of another type (E19, E20), and entries of any form."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, count
from featurestore.errors import RequestError
from featurestore.privacy.mentions import is_of
from featurestore.testing import FakeClock
from tests.projects import store_at

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with store_at(tmp_path / "forms", FakeClock(1_600_000_000_000_000)) as opened:
        yield opened


def view_of(
    entity: Entity, data: dict[str, list[Any]], *, name: str = "scores", source: str = "s", x: int = 1, renamed: Any = None
) -> Any:
    rows = FrameSource(source, pl.DataFrame({**data, "at": [NOON] * 3, "x": [x, x + 1, x + 2]}), event_time="at")
    body: dict[str, Any] = {"__annotations__": {"x": int}, "__module__": __name__}
    if renamed:
        body["transform"] = staticmethod(lambda rows: rows.rename(renamed))
    return type("Scores", (FeatureView,), body, entity=entity, source=rows, name=name)


def left(store: FeatureStore, view: str = "scores") -> list[Any]:
    return sorted(store.sql(f"select * from {view}")["x"].to_list())  # noqa: S608 - a name of these tests


BY_NUMBER = view_of(Entity("user", n=int), {"n": [1, 2, 3]})


@pytest.mark.parametrize(
    ("after", "key"),
    [
        (view_of(Entity("customer", n=int), {"n": [1, 2, 3]}), {"n": 1}),
        (view_of(Entity("user", n=str), {"n": ["1", "2", "3"]}), {"n": "1"}),
        (view_of(Entity("customer", n=str), {"n": ["1", "2", "3"]}), {"n": "1"}),
        (view_of(Entity("user", n=bytes), {"n": [b"1", b"2", b"3"]}), {"n": b"1"}),
        (view_of(Entity("user", n=pl.Int8), {"n": [1, 2, 3]}), {"n": 1}),
        (view_of(Entity("customer", n=int), {"n": [1, 2, 3]}, name="ratings"), {"n": 1}),  # the same column, of the same source
        (view_of(Entity("user", m=int), {"m": [1, 2, 3], "n": [1, 2, 3]}), {"m": 1}),  # both columns are there
        (view_of(Entity("customer", m=int), {"m": [7, 8, 9], "n": [1, 2, 3]}), {"m": 7}),
        (view_of(Entity("user", m=str), {"n": ["1", "2", "3"]}, renamed={"n": "m"}), {"m": "1"}),
    ],
    ids=["renamed", "text", "renamed text", "bytes", "narrower", "of another view", "another key", "all other", "by the transform"],
)
def test_no_new_data_version_brings_the_forgotten_back(after: Any, key: dict[str, Any], store: FeatureStore) -> None:
    store.apply([BY_NUMBER])
    store.materialize()
    store.admin.forget("user", {"n": 1})
    store.apply([after])
    [done] = [each for each in store.materialize() if each.view == after.__view__.name]
    assert done.reasons == {"its entity was forgotten": 1}
    assert left(store, done.view) == [2, 3]
    assert store.online(f"{done.view}.x", [key]).status == {"x": ["missing"]}
    rows = after.__view__.source.frame
    [pushed] = [each for each in store.push("s", rows) if each.view == done.view]
    assert (pushed.reasons, pushed.rows_new) == ({"its entity was forgotten": 1}, 0)
    assert store.admin.rebuild_online([done.view])
    assert store.online(f"{done.view}.x", [key]).status == {"x": ["missing"]}


def test_names_are_followed_through_several_changes(store: FeatureStore) -> None:
    for name, kind in (("user", int), ("customer", int), ("client", str)):
        store.apply([view_of(Entity(name, n=kind), {"n": [kind(1), kind(2), kind(3)]})])
        store.materialize()
    assert {each.name for each in store.admin.forget("user", {"n": 1})} == {"scores v1", "scores v2", "scores v3"}
    assert store.admin.unforget("client", {"n": "1"}).entities == 1
    store.admin.forget("client", {"n": "2"})
    store.apply([view_of(Entity("guest", n=pl.Int16), {"n": [1, 2, 3]})])
    store.materialize()
    assert left(store) == [1, 3]


def test_another_entity_with_equal_keys_is_left_alone(store: FeatureStore) -> None:
    other = view_of(Entity("product", n=int), {"n": [1, 2, 3]}, name="stock", source="t", x=4)
    store.apply([BY_NUMBER, other])
    store.materialize()
    store.admin.forget("user", {"n": 1})
    store.materialize(start="2013-01-01")
    assert (left(store), left(store, "stock")) == ([2, 3], [4, 5, 6])


@pytest.mark.parametrize("kind", [date, datetime])
def test_a_date_is_its_text(kind: type, store: FeatureStore) -> None:
    days = [kind(2020, 1, number) for number in (1, 2, 3)]
    store.apply([view_of(Entity("day", d=kind), {"d": days})])
    store.materialize()
    store.admin.forget("day", {"d": days[0]})
    store.apply([view_of(Entity("day", d=str), {"d": ["2020-01-01", "2020-01-02", "2020-01-03"]})])
    store.materialize()
    assert left(store) == [2, 3]


def test_a_composite_key_is_known_in_any_order_and_type(store: FeatureStore) -> None:
    store.apply([view_of(Entity("seat", flight=str, row=int), {"flight": ["a", "a", "b"], "row": [1, 2, 1]})])
    store.materialize()
    store.admin.forget("seat", {"row": 1, "flight": "a"})
    store.apply([view_of(Entity("place", row=str, flight=str), {"flight": ["a", "a", "b"], "row": ["1", "2", "1"]})])
    store.materialize()
    assert left(store) == [2, 3]


def test_former_keys_are_taken_and_what_is_left_is_told(store: FeatureStore) -> None:
    mails = ["a@example.org", "b@example.org", "c@example.org"]
    store.apply([view_of(Entity("user", email=str), {"email": mails})])
    store.materialize()
    store.apply([view_of(Entity("user", user_id=int), {"user_id": [7, 8, 9]}, x=4)])
    store.materialize()
    new = store.admin.forget("user", {"user_id": 7})
    assert [each.name for each in new] == ["scores v2", "scores v2"]
    assert new.notes == ("scores v1 is by email: forget them by it too.",)
    former = store.admin.forget("user", {"email": mails[0]})
    assert [each.name for each in former] == ["scores v1", "scores v1"]
    assert new.notes[0] in str(new)
    store.versions.rollback("scores")
    assert left(store) == [2, 3]
    with pytest.raises(RequestError, match=r"exactly its join keys \(user_id: int or email: str\)"):
        store.admin.forget("user", {"mail": mails[0]})
    with pytest.raises(RequestError, match="all in the same ones"):
        store.admin.forget("user", [{"user_id": 7}, {"email": mails[0]}])


def test_windows_and_rejected_rows_of_a_new_data_version_are_kept_out_too(store: FeatureStore) -> None:
    store.apply([BY_NUMBER])
    store.materialize()
    store.admin.forget("user", {"n": 1})
    rows = pl.DataFrame({"n": ["1", "2", "1"], "at": [NOON, NOON, None], "note": ["vkqzjx", "b", "vkqzjx"]})

    class Scores(FeatureView, entity=Entity("customer", n=str), source=FrameSource("s", rows, event_time="at")):
        times: int = count().over("1d")

    store.apply([Scores])
    [done] = store.materialize()
    assert done.reasons == {"its entity was forgotten": 2}
    assert store.runs.rejected_rows("scores").is_empty()
    assert store.online(Scores, [{"n": "1"}, {"n": "2"}], at=NOON).to_dicts() == [{"n": "1", "times": 0}, {"n": "2", "times": 1}]


def test_a_dry_run_lifts_no_tombstone(store: FeatureStore) -> None:
    store.apply([BY_NUMBER])
    store.materialize()
    store.admin.forget("user", {"n": 1})
    report = store.admin.unforget("user", {"n": 1}, dry_run=True)
    assert (report.entities, report.dry_run, report.summary) == (1, True, "1 user could come back.")
    store.materialize(start="2013-01-01")
    assert left(store) == [2, 3]
    assert store.admin.unforget("user", {"n": 1}).entities == 1


@pytest.mark.parametrize("time", [None, NOON], ids=["without a time", "without a value"])
def test_an_entity_of_bytes_is_forgotten_beside_rejected_rows(time: datetime | None, store: FeatureStore) -> None:
    rows = pl.DataFrame({"u": [b"\xff1", b"b", b"\xff1"], "n": [1, 2, None], "at": [NOON, NOON, time], "x": [1, 2, None]})

    class Scores(FeatureView, entity=Entity("user", u=bytes), source=FrameSource("s", rows, event_time="at")):
        x: int

    store.apply([Scores])
    store.materialize()
    assert store.runs.rejected_rows("scores").height == 1
    report = store.admin.forget("user", {"u": b"\xff1"})
    assert {each.place: each.rows for each in report} == {"history": 1, "online": 1, "rejected": 1}
    assert store.runs.rejected_rows("scores").is_empty()


# -- what streams have set aside -----------------------------------------------------------------------------------------

DEEP = 100_000


@pytest.mark.parametrize(
    ("payload", "hit"),
    [
        (b'{"user_id": "zqxjkv"}', True),
        (b'{"user_id": "ann", "note": "zqxjkv"}', False),  # whose it is stands there
        (b'{"user_id": "ann", "user_id": "zqxjkv"}', True),
        (b'{"user_id": "zqxjkv", "user_id": "ann"}', True),
        (b'{"user": {"id": ["zqxjkv"]}}', True),
        (b'[{"id": "zqxjkv"}]', True),
        (b'{"user": {"id": ["zqx"]}}', False),
        (b'{"a": ' * DEEP + b'"zqxjkv"' + b"}" * DEEP, True),
        (b'{"a": ' * DEEP + b'"\\u007aqxjkv"' + b"}" * DEEP, True),
        (b'{"a": ' * DEEP + b'"ann"' + b"}" * DEEP, False),
        (b'{"a": ' * 900 + b'"zqxjkv"' + b"}" * 900, True),
        (b"[" * DEEP, False),
        (b'{"user_id": "zqxjk\\u0076", "amou', True),
        (b'{"user_id": "zqxjkv", "n": ' + b"9" * 9_999 + b"}", True),
        (b"zqxjkv", True),
        (b"\xff\xfe{", False),
        (b'{"user_id": "\xffzqxjkv", "amou', True),
        (b'\xef\xbb\xbf{"user_id": "zqxjkv"}', True),
        ('{"user_id": "zqxjkv"}'.encode("utf-16"), True),
        (b'"{\\"user_id\\": \\"zqxjkv\\"}"', True),
        (b'\x1e{"user_id": "zqxjkv"}', True),
        (b"user_id=zqxjkv&n=1", True),
        (b"1,zqxjkv,2013-07-01", True),
        (b"\x81\xa7user_id\xa6zqxjkv", True),
        (b"1,zqxjkvs,2013-07-01", False),
    ],
)
def test_an_entry_that_was_set_aside_is_searched_whatever_it_is(payload: bytes, hit: bool) -> None:
    assert is_of({b"payload": payload}, pl.DataFrame({"user_id": ["zqxjkv"]})) is hit


def test_an_entry_may_hold_its_row_beside_other_fields() -> None:
    user = pl.DataFrame({"user_id": ["zqxjkv"]})
    assert is_of({b"payload": b"user_id=zqxjkv&n=1", b"trace": b"5"}, user)
    assert not is_of({b"time": b"2013-07-01T12:00:00Z", b"who": b"5"}, pl.DataFrame({"user_id": [12]}))
    assert is_of({b"time": b"2013-07-01T12:00:00Z", b"who": b"12"}, pl.DataFrame({"user_id": [12]}))


@pytest.mark.parametrize(
    ("key", "written"),
    [
        (b"\x00\xff", "AP8="),
        (NOON, "2013-07-01T12:00:00Z"),
        (NOON, "2013-07-01 12:00"),
        (NOON, "2013-07-01T12:00:00.000+00:00"),
        (NOON, 1_372_680_000_000_000),
        (NOON.replace(hour=0), "2013-07-01T00:00:00Z"),
        (NOON.replace(microsecond=500_000), "2013-07-01T12:00:00.5Z"),
    ],
)
def test_a_key_is_found_as_json_has_it(key: Any, written: Any) -> None:
    """As the entry of a good row has it: bytes in base64, times in ISO 8601 or in microseconds."""
    entities = pl.DataFrame({"user_id": [key]})
    for fields in (
        json.dumps({"user_id": written, "x": "no number"}),
        json.dumps({"user": [written]}),
        f'{{"a": {json.dumps(written)}, ',
    ):
        assert is_of({b"payload": fields.encode()}, entities)
    assert is_of({b"user_id": str(written).encode(), b"x": b"no number"}, entities)
    assert not is_of({b"payload": json.dumps({"user_id": "AP9=", "x": 1}).encode()}, entities)


@pytest.mark.parametrize(
    ("key", "written"),
    [(42, b"42"), (b"\xffkey", b"\xffkey"), (True, b"true"), (date(2020, 1, 2), b"2020-01-02"), ('a"b', b'a\\"b')],
)
def test_keys_of_any_type_are_found_in_entries(key: Any, written: bytes) -> None:
    entities = pl.DataFrame({"user_id": [key]})
    assert is_of({b"payload": b'{"user_id": "' + written + b'", "cut'}, entities)
    assert is_of(
        {b"user_id": key if isinstance(key, bytes) else str(key).lower().encode() if key is True else str(key).encode()}, entities
    )
    if not isinstance(key, (bytes, date)):
        assert is_of({b"payload": json.dumps({"user_id": key}).encode()}, entities)
    assert not is_of({b"payload": b'{"user_id": "ann"}'}, entities)
