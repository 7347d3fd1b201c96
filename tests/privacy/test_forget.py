"""Forgetting: nothing is left of an entity in any file or key, and nothing brings it back."""

import random
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from featurestore import Entity, Feature, FeatureService, FeatureStore, FeatureView, ParquetSource, last_n, sum_
from featurestore.errors import NotFoundError, RequestError
from featurestore.offline.open_folder import open_folder
from featurestore.online.base import Entry
from featurestore.online.lmdb.store import LMDBStore
from featurestore.server.backend import StoreBackend
from featurestore.testing import FakeClock
from tests.crashes import Worker
from tests.projects import store_at

ROOT = Path(__file__).parent.parent.parent
RARE = "zqxjkv-7731-wvyzqk"
SECRET = "vkqzjx-5519-secret"
NUMBER = 0x7A71786A6B7631
AT = datetime(2020, 1, 1, tzinfo=UTC)
NOW = FakeClock(1_600_000_000_000_000)


def rows_of(key: Any, others: list[Any], count: int = 40) -> pl.DataFrame:
    """Rows of an entity among others: good ones, and ones that break a constraint."""
    keys = [key, *others]
    data = [
        {"uid": keys[at % len(keys)], "at": AT + timedelta(hours=at), "note": f"{SECRET}-{at}" if at % len(keys) == 0 else "plain",
         "amount": -1.0 if at % 7 == 6 else float(at)}
        for at in range(count)
    ]  # fmt: skip
    return pl.DataFrame(data)


def definitions(kind: type, source: ParquetSource, *, version: int = 1) -> list[Any]:
    """A view of latest values, one that names its key itself, a windowed one, and a service that joins by another column."""
    user = Entity("user", user_id=kind)

    class Notes(FeatureView, entity=user, source=source):
        note: str
        amount: float = Feature(ge=0 if version == 1 else -0.5)

        @staticmethod
        def transform(events: pl.LazyFrame) -> pl.LazyFrame:
            return events.rename({"uid": "user_id"})

    class Spent(FeatureView, entity=user, source=source):
        spent: float = sum_("amount").over("3d")
        last_notes: list[str] = last_n("note", 3).over("3d")

        @staticmethod
        def transform(events: pl.LazyFrame) -> pl.LazyFrame:
            return events.rename({"uid": "user_id"})

    service = FeatureService("asked", [Notes.on(user_id="who"), Spent.prefix("s_")], log=1.0)
    return [user, Notes, Spent, service]


class Project:
    """A project in which an entity is everywhere."""

    def __init__(self, folder: Path, kind: type, key: Any, online: str | None, offline: str = "") -> None:
        self.folder = folder / f"forget-{kind.__name__}-{'valkey' if online else 'lmdb'}"
        self.key, self.kind, self.online, self.offline = key, kind, online, offline
        self.others = ["ann", "bob"] if kind is str else [1, 2]
        self.rows = rows_of(key, self.others)
        if not (folder / "data").exists():
            (folder / "data").mkdir()
            self.rows.write_parquet(folder / "data" / "0.parquet")
        self.source = ParquetSource("events", "../data/*.parquet", event_time="at")
        self.store = self.open()

    def open(self) -> FeatureStore:
        place = {"offline": self.offline} if self.offline else {}
        return store_at(self.folder, NOW, online=self.online, project=self.folder.name, chunk_rows=16, **place)

    def fill(self) -> None:
        store = self.store
        store.apply(definitions(self.kind, self.source))
        store.materialize()
        rows_of(self.key, self.others, 60)[40:].write_parquet(self.folder.parent / "data" / "1.parquet")
        store.materialize()
        store.apply(definitions(self.kind, self.source, version=2))  # another data version, the old one stays
        store.materialize()
        store.push("events", rows_of(self.key, self.others, 75)[60:])
        asked = store.online("asked", [{"who": self.key, "user_id": self.key}, {"who": self.others[0], "user_id": self.others[0]}])
        told: list[tuple[str, int, int]] = []
        logger = StoreBackend(store).feature_logger(lambda *counts: told.append(counts))
        logger.offer("asked", 1.0, asked)
        logger.close()
        assert [written for _, written, _ in told] == [2]

    def traces(self) -> list[str]:
        """Where anything of the entity is: the bytes of every file, the cells of every Parquet file, every key and value."""
        texts = [SECRET.encode(), *encodings(self.key)]
        found = []
        files = {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        if self.offline:
            bucket = open_folder(self.offline)
            files |= {file.name: bucket.read(file.name) for file in bucket.list("")}
        for path, data in files.items():
            found += [f"{path}: {text!r}" for text in texts if text in data]
            if path.endswith(".parquet"):
                frame = pl.read_parquet(data)
                cells = " ".join(map(repr, frame.rows()))
                found += [f"{path}: {text}" for text in (SECRET, repr(self.key)) if text in cells]
        if self.online:
            with redis.Redis.from_url(self.online) as server:
                for name in server.scan_iter(match=f"{self.folder.name}/*"):
                    value = server.get(name) or b""
                    found += [f"{name!r}: {text!r}" for text in texts if text in name or text in value]
        return found


def encodings(key: Any) -> list[bytes]:
    """A key as anything may write it."""
    if isinstance(key, str):
        return [key.encode()]
    return [str(key).encode(), key.to_bytes(8, "little"), key.to_bytes(8, "big")]


@pytest.mark.parametrize(
    ("kind", "key", "server", "bucket"),
    [
        pytest.param(str, RARE, "", "", id="text-lmdb"),
        pytest.param(int, NUMBER, "valkey_url", "", id="number-valkey"),
        pytest.param(str, RARE, "", "s3_url", id="text-bucket", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_and_nothing_comes_back(
    kind: type, key: Any, server: str, bucket: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    online = request.getfixturevalue(server) if server else None
    project = Project(tmp_path, kind, key, online, request.getfixturevalue(bucket) if bucket else "")
    project.fill()
    assert project.traces(), "the scan finds what is there"
    store = project.store
    before = {view: store.sql(f"from {view} where user_id <> {key!r}").sort(pl.all()).rows() for view in ("notes",)}
    counted = store.admin.forget("user", {"user_id": key}, dry_run=True)
    report = store.admin.forget("user", {"user_id": key})
    told = {each.place for each in report if each.rows}
    assert told >= {"history", "pushed", "rejected", "online", "feature log"}
    assert {(each.place, each.name): each.rows for each in counted} == {(each.place, each.name): each.rows for each in report}
    assert project.traces() == []
    assert before == {view: store.sql(f"from {view}").sort(pl.all()).rows() for view in ("notes",)}
    assert len(store.admin.forget("user", {"user_id": key})) == 0

    for summary in store.materialize(start="2019-01-01"):
        assert summary.reasons is not None
        assert summary.reasons["its entity was forgotten"] == 20
    for pushed in store.push("events", project.rows):
        assert pushed.reasons["its entity was forgotten"] == 14
    store.admin.rebuild_online()
    store.close()
    with project.open() as again:
        again.apply(definitions(kind, project.source, version=2))
        again.materialize(start="2019-01-01")
        assert project.traces() == []
        assert again.online("asked", [{"who": key, "user_id": key}]).to_dicts()[0]["note"] is None


def test_an_entity_of_a_removed_view_is_forgotten_there(tmp_path: Path) -> None:
    project = Project(tmp_path, str, RARE, None)
    (project.folder / "definitions").mkdir()
    project.store.apply(definitions(str, project.source))
    project.store.materialize()
    project.store.push("events", rows_of(RARE, ["ann"], 50)[40:])
    project.store.apply()  # the folder has no definitions, so all are removed
    assert project.store.catalog.views == {}
    report = project.store.admin.forget("user", [{"user_id": RARE}])
    assert {"history", "pushed", "online"} <= {each.place for each in report}
    assert project.traces() == []


def test_it_may_come_back_once_the_tombstone_is_lifted(tmp_path: Path) -> None:
    with Project(tmp_path, str, RARE, None).store as store:
        store.apply(definitions(str, ParquetSource("events", "../data/*.parquet", event_time="at")))
        store.materialize()
        store.admin.forget("user", {"user_id": RARE})
        assert store.admin.unforget("user", {"user_id": RARE}).summary == "1 user may come back."
        assert store.admin.unforget("user", {"user_id": "nobody"}).entities == 0
        store.materialize(start="2019-01-01")
        assert store.online("notes.note", [{"user_id": RARE}]).status == {"note": ["present"]}


@pytest.mark.parametrize(
    ("entity", "rows", "error", "told"),
    [
        ("usr", {"user_id": "a"}, NotFoundError, "Did you mean 'user'"),
        ("user", {"user_id": 3}, RequestError, "must be str"),
        ("user", {"user_id": None}, RequestError, "must be str"),
        ("user", {"uid": "a"}, RequestError, "by exactly its join keys (user_id: str)"),
        ("user", [{"user_id": "a"}, "b"], RequestError, "Row 1"),
    ],
)
def test_what_is_no_entity_is_told(entity: str, rows: Any, error: type[Exception], told: str, tmp_path: Path) -> None:
    with Project(tmp_path, str, RARE, None).store as store:
        store.apply(definitions(str, ParquetSource("events", "../data/*.parquet", event_time="at")))
        with pytest.raises(error, match=told.replace("(", r"\(").replace(")", r"\)")):
            store.admin.forget(entity, rows)


def test_of_a_composite_entity_all_keys_count(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = pl.DataFrame({"a": ["x", "x", "xy"], "b": ["yz", "y", "z"], "at": [AT] * 3, "n": [1, 2, 3]})
    rows.write_parquet(tmp_path / "data" / "0.parquet")

    class Pair(FeatureView, entity=Entity("pair", a=str, b=str), source=ParquetSource("p", "../data/*", event_time="at")):
        n: int

    with store_at(tmp_path / "forget-composite", NOW) as store:
        store.apply([Pair])
        store.materialize()
        store.admin.forget("pair", {"a": "x", "b": "yz"})
        store.materialize(start="2019-01-01")
        assert store.sql("select n from pair order by n")["n"].to_list() == [2, 3]
        assert store.online(Pair, rows.select("a", "b").to_dicts()).status == {"n": ["missing", "present", "present"]}


def test_what_a_stream_has_set_aside_is_forgotten(valkey_url: str, tmp_path: Path) -> None:
    from featurestore import StreamSource
    from featurestore.adapters import open_stream
    from featurestore.streams.base import Entry as Arrived

    columns = {"uid": str, "at": datetime, "amount": float}
    source = StreamSource("arrived", valkey_url, topic="forget-arrived", event_time="at", columns=columns)

    class Amounts(FeatureView, entity=Entity("user", user_id=str), source=source):
        amount: float

        @staticmethod
        def transform(events: pl.LazyFrame) -> pl.LazyFrame:
            return events.rename({"uid": "user_id"})

    with store_at(tmp_path / "forget-stream", NOW) as store:
        store.apply([Amounts])
        stream = open_stream(source, store.settings.project, 60.0)
        stream.read(1, 0.01)  # which makes the group
        poison = [b'{"uid": "%s", "amount": "much"}', b'{"uid": "%s", "amou', b'{"uid": "ann%s", "amount": "x"}', b'{"uid": "ann"']
        for number, text in enumerate(poison):
            payload = text % RARE.encode() if b"%s" in text else text
            stream.set_aside(Arrived(f"{number}-0", number, {b"payload": payload}), "no row")
        assert [(each.place, each.rows) for each in store.admin.forget("user", {"user_id": RARE}, dry_run=True)] == [
            ("set aside", 2)
        ]
        assert [(each.place, each.rows) for each in store.admin.forget("user", {"user_id": RARE})] == [("set aside", 2)]
        assert [each.entry.id for each in stream.shelf.read()] == ["2-0", "3-0"]
        stream.close()


# -- at the same time ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Project, FeatureStore]]:
    """A project, and another store of it."""
    project = Project(tmp_path, str, RARE, None)
    project.store.apply(definitions(str, project.source))
    other = project.open()
    yield project, other
    other.close()
    project.store.close()


@pytest.mark.parametrize("method", ["stage", "commit", "committed", "keep_rejected"])
def test_a_run_meets_a_forget_at_any_step(method: str, two: tuple[Project, FeatureStore], monkeypatch: pytest.MonkeyPatch) -> None:
    project, other = two
    work = getattr(project.store.components.offline, method)

    def forget_first(*given: Any) -> Any:
        monkeypatch.setattr(project.store.components.offline, method, work)
        other.admin.forget("user", {"user_id": RARE})
        return work(*given)

    monkeypatch.setattr(project.store.components.offline, method, forget_first)
    project.store.materialize()
    assert project.traces() == []
    assert other.sql("from notes")["user_id"].unique().sort().to_list() == ["ann", "bob"]


def test_a_push_meets_a_forget_between_history_and_online(
    two: tuple[Project, FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgetting waits until both stores have what is pushed, and then erases it in both."""
    project, other = two
    write = project.store.components.online.write
    forgetting = threading.Thread(target=other.admin.forget, args=("user", {"user_id": RARE}))

    def begin_to_forget(entries: list[Entry]) -> int:
        monkeypatch.setattr(project.store.components.online, "write", write)
        forgetting.start()
        forgetting.join(1)
        assert forgetting.is_alive()
        return write(entries)

    monkeypatch.setattr(project.store.components.online, "write", begin_to_forget)
    project.store.push("events", project.rows)
    forgetting.join(30)
    assert not forgetting.is_alive()
    assert project.traces() == []
    assert other.online("notes.note", [{"user_id": "ann"}]).status == {"note": ["present"]}


def test_forgetting_waits_for_a_write_under_way(two: tuple[Project, FeatureStore], monkeypatch: pytest.MonkeyPatch) -> None:
    project, other = two
    write, reached, go_on = LMDBStore.write, threading.Event(), threading.Event()

    def wait(self: LMDBStore, entries: list[Entry], **given: Any) -> int:
        reached.set()
        assert go_on.wait(30)
        return write(self, entries, **given)

    monkeypatch.setattr(LMDBStore, "write", wait)
    pushing = threading.Thread(target=project.store.push, args=("events", project.rows))
    pushing.start()
    assert reached.wait(30)
    forgetting = threading.Thread(target=other.admin.forget, args=("user", {"user_id": RARE}))
    forgetting.start()
    while not other.components.tombstones.unfinished():
        assert forgetting.is_alive()
    assert project.store.sql("from notes").height > 0
    go_on.set()
    pushing.join(30)
    forgetting.join(30)
    assert project.traces() == []


def test_a_reader_of_an_old_version_is_told_to_ask_again(two: tuple[Project, FeatureStore]) -> None:
    from featurestore.errors import OfflineStoreError

    project, other = two
    project.store.materialize()
    table = project.store.components.table(project.store.catalog.views["notes"])
    snapshot = project.store.components.offline.snapshot(table)
    other.admin.forget("user", {"user_id": RARE})
    with pytest.raises(OfflineStoreError, match=r"rewritten .* ask again"):
        [history.read() for history in snapshot.buckets.values()]


def test_an_interrupted_run_completes_without_them(two: tuple[Project, FeatureStore], monkeypatch: pytest.MonkeyPatch) -> None:
    project, other = two

    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(project.store.components.offline, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            project.store.materialize()
    report = other.admin.forget("user", {"user_id": RARE})
    assert "staged" in {each.place for each in report}
    assert project.traces() == []
    project.store.materialize()
    assert project.traces() == []
    assert project.store.sql("from notes").height > 0


# -- interrupted ---------------------------------------------------------------------------------------------------------


WORKER = Worker("forget_worker")


def survive(tmp_path: Path, kills: int, seed: int) -> None:
    """Forgets in processes that are killed at random points, then in one that is not."""
    project = Project(tmp_path, str, RARE, None)
    project.fill()
    project.store.close()
    others = rows_of(RARE, project.others, 75).filter(pl.col("uid") != RARE, pl.col("amount") >= 0).height
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-quiet")
    calls = WORKER.run(tmp_path.parent / f"{tmp_path.name}-quiet")
    draw = random.Random(seed)
    for _ in range(kills):
        WORKER.kill(tmp_path, point=draw.randrange(1, calls))
    with project.open() as store:
        if store.components.tombstones.unfinished():
            assert "forget: user" in {each.check for each in store.admin.doctor() if each.state == "error"}
    WORKER.run(tmp_path)
    assert project.traces() == []
    with project.open() as store:
        store.apply(definitions(str, project.source, version=2))
        assert store.components.tombstones.unfinished() == {}
        assert store.sql("from notes").height == others
        store.materialize(start="2019-01-01")
        assert project.traces() == []
        assert store.sql("from notes").height == others


def test_a_killed_forget_repeated_completes_it(tmp_path: Path) -> None:
    survive(tmp_path, 1, 1)


@pytest.mark.slow
def test_a_forget_killed_at_many_points(tmp_path: Path) -> None:
    survive(tmp_path, 6, 10)


# -- the embedded store's file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [60, 6000])
@pytest.mark.parametrize("seed", range(3))
def test_lmdb_keeps_no_byte_of_what_is_erased(size: int, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed * 10_000 + size)
    store = LMDBStore(tmp_path / "online")
    kept: dict[bytes, bytes] = {}
    for number in range(15):
        some = [
            Entry(b"p/v/1/{%05d}" % draw.randrange(3000), b"%08d" % number + draw.randbytes(draw.randrange(1, size)))
            for _ in range(200)
        ]
        store.write(some)
        for entry in some:
            kept[entry.key] = max(kept.get(entry.key, b""), entry.value)
        store.write([Entry(b"p/v/1/{%05d%s}" % (1500, RARE.encode()), b"%08d" % number + SECRET.encode() * draw.randrange(1, 90))])
    erased = [key for key in kept if draw.random() < 0.02] + [b"p/v/1/{%05d%s}" % (1500, RARE.encode())]
    assert store.delete(b"p/", keys=erased) == len(erased)
    data = (tmp_path / "online" / "data.mdb").read_bytes()
    assert [text for text in (RARE.encode(), SECRET.encode(), *erased) if text in data] == []
    left = [key for key in kept if key not in erased]
    assert store.read(left) == [kept[key] for key in left]
    assert store.delete(b"p/", keys=erased) == 0
    store.close()
