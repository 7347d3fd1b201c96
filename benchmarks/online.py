"""Online reads and writes against the raw calls of the same client."""

from collections.abc import Callable, Iterator
from typing import Any

import polars as pl

from benchmarks import data
from benchmarks.measure import DATA, Line, in_turn, microseconds
from benchmarks.project import USER, store
from featurestore import FeatureStore, FeatureView, FrameSource
from featurestore.definitions.reference import parse_references
from featurestore.online.plan import compile_online
from featurestore.retrieval.online import store_keys
from featurestore.selection.select import select

ENTITIES = 10_000
CALLS = 1_000


def views() -> list[type[FeatureView]]:
    """Five views of ten features over ten thousand entities."""
    made = []
    for number in range(5):
        names = data.feature_names(f"v{number}_")
        base = pl.select(n=pl.int_range(ENTITIES, dtype=pl.UInt64))
        columns = {name: (pl.col("n").cast(pl.Float64) * 0.37 + place) for place, name in enumerate(names)}
        frame = base.select(entity="user_" + pl.col("n").cast(pl.String), event_time=pl.lit(number).cast(data.INSTANT), **columns)
        source = FrameSource(f"frame{number}", frame, event_time="event_time")
        body = {"__annotations__": dict.fromkeys(names, float), "__module__": __name__}
        made.append(type(f"V{number}", (FeatureView,), body, entity=USER, source=source))
    return made


def keys_of(opened: FeatureStore, features: Any, rows: list[dict[str, Any]]) -> list[bytes]:
    """Returns the store keys that a read of these rows asks for: the floor reads the same ones."""
    plan = compile_online(opened.components.watched_online.space(), select(opened.catalog, parse_references(features)))
    return store_keys(plan, rows)[0]


def lines(*, full: bool) -> Iterator[Line]:
    """Measures reads from Valkey over TCP and from LMDB."""
    import redis

    from tests.servers.valkey import ValkeyServer

    one = [{"entity": "user_77"}]
    hundred = [{"entity": f"user_{number * 97}"} for number in range(100)]
    with ValkeyServer() as server, store("online", server.url) as opened:
        made = views()
        opened.apply(made)
        opened.materialize(start="1970-01-01")
        opened.admin.rebuild_online()  # the history may be of an earlier run, the server is new
        raw = redis.Redis.from_url(server.url)
        [key] = keys_of(opened, made[0], one)
        keys = keys_of(opened, made, hundred)

        def get() -> object:
            return raw.get(key)

        def mget() -> object:
            return raw.mget(keys)

        yield _line("Valkey: 1 row × 1 view × 10", lambda: opened.online(made[0], one), get, 2.0, "GET")
        yield _line("Valkey: the same, to_dicts()", lambda: opened.online(made[0], one).to_dicts(), get, 2.0, "GET")
        yield _line("Valkey: 100 rows × 5 views × 10", lambda: opened.online(made, hundred), mget, 2.5, "MGET 500")
        yield _line("Valkey: the same, to_dicts()", lambda: opened.online(made, hundred).to_dicts(), mget, 3.5, "MGET 500")
        raw.close()
    with store("online-lmdb", "lmdb:online") as opened:
        made = views()
        opened.apply(made)
        opened.materialize(start="1970-01-01")
        opened.admin.rebuild_online()  # the history may be of an earlier run, the server is new
        yield from _lmdb(opened, made, one, hundred)


def _lmdb(opened: FeatureStore, made: list[Any], one: list[Any], hundred: list[Any]) -> Iterator[Line]:
    import lmdb

    copy = DATA / "online-lmdb" / "copy"  # a process may not open an environment twice
    with lmdb.open(str(copy), map_size=1 << 30) as raw:
        [key] = keys_of(opened, made[0], one)
        keys = keys_of(opened, made, hundred)
        with raw.begin(write=True) as transaction:
            for name, value in zip(keys, opened.components.online.read(keys), strict=True):
                transaction.put(name, value or b"")
            transaction.put(key, opened.components.online.read([key])[0] or b"")

        def get(names: list[bytes]) -> list[Any]:
            with raw.begin() as transaction:
                return [transaction.get(name) for name in names]

        ours, floor = in_turn(lambda: opened.online(made[0], one).to_dicts(), lambda: get([key]), CALLS * 5)
        yield Line(
            "LMDB: 1 row × 1 view × 10, to_dicts()", microseconds(ours), f"{microseconds(floor)} (get)", f"{ours / floor:.2f}×",
            "≤ 25 µs", ours <= 25e-6,
        )  # fmt: skip
        yield _line("LMDB: 100 rows × 5 views × 10", lambda: opened.online(made, hundred), lambda: get(keys), 5.0, "500 gets")
        yield _line(
            "LMDB: the same, to_dicts()", lambda: opened.online(made, hundred).to_dicts(), lambda: get(keys), None, "500 gets"
        )


def _line(what: str, ours: Callable[[], object], floor: Callable[[], object], reach: float | None, name: str) -> Line:
    mine, raw = in_turn(ours, floor, CALLS)
    ratio = mine / raw
    cells = (what, f"{microseconds(mine)} p50", f"{microseconds(raw)} ({name})", f"{ratio:.2f}×")
    return Line(*cells, "-", None) if reach is None else Line(*cells, f"≤ {reach}×", ratio <= reach)
