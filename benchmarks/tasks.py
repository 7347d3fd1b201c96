"""Tasks that run in a process of their own, so that their memory is theirs: ``python -m benchmarks.tasks NAME ARGUMENTS``."""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from benchmarks.measure import flush, tell

_FILES = 21
"""As many files as a materialization of 10M rows flushes: 5 chunks that it stages, and 16 buckets."""


def join_asof(spine: str, *histories: str) -> None:
    """The floor of a training frame: a bare as-of join for each history, its rows in one sorted Parquet file."""
    began = time.perf_counter()
    frame = pl.scan_parquet(spine).sort("event_time")
    for history in histories:
        frame = frame.join_asof(pl.scan_parquet(history), on="event_time", by="entity", check_sortedness=False)
    rows = frame.collect()
    tell(time.perf_counter() - began)
    assert rows.height


def join_asof_file(spine: str, target: str, *histories: str) -> None:
    """The floor of a training file: the same bare joins, whose result Polars writes to a file."""
    began = time.perf_counter()
    frame = pl.scan_parquet(spine).sort("event_time")
    for history in histories:
        frame = frame.join_asof(pl.scan_parquet(history), on="event_time", by="entity", check_sortedness=False)
    frame.sink_parquet(target, compression="zstd")
    tell(time.perf_counter() - began)


def range_windows(spine: str, events: str) -> None:
    """The floor of windowed features: DuckDB's RANGE windows over the union of the spine and the events."""
    import duckdb

    values = ", ".join(
        f"sum(x0) over {name} as total_{name}, count(x0) over {name} as events_{name}, "
        f"avg(x0) over {name} as average_{name}, max(x0) over {name} as greatest_{name}"
        for name in ("w1", "w2", "w3")
    )
    windows = ", ".join(
        f"{name} as (partition by entity order by event_time range between interval {span} preceding and current row)"
        for name, span in (("w1", "1 hour"), ("w2", "1 day"), ("w3", "7 day"))
    )
    began = time.perf_counter()
    query = (
        f"select entity, event_time, {values} from (select entity, event_time, x0, false as asked from '{events}' union all "  # noqa: S608 - our own names
        f"select entity, event_time, null, true from '{spine}') window {windows} qualify asked"
    )
    rows = duckdb.sql(query).to_arrow_table()
    tell(time.perf_counter() - began)
    assert rows.num_rows


def training(folder: str, spine: str, features: str, sink: str = "", stored_by: str = "") -> None:
    """Our training frame over a store that is materialized, as it was at an instant if one is given."""
    from benchmarks.project import store

    opened, instant = store(folder), datetime.fromisoformat(stored_by) if stored_by else None
    began = time.perf_counter()
    if sink:
        opened.training_frame(spine, json.loads(features), sink=sink)
    else:
        rows = opened.training_frame(spine, json.loads(features), stored_by=instant)
        assert rows.height
    tell(time.perf_counter() - began)


def training_on_local(folder: str, spine: str, features: str, sink: str) -> None:
    """The floor of a training frame on a cluster: the CPU time that the local engine takes for it."""
    from benchmarks.project import store

    opened = store(folder)
    began = time.process_time()
    opened.training_frame(spine, json.loads(features), sink=sink)
    tell(time.process_time() - began)


def training_on_ray(folder: str, spine: str, features: str, sink: str) -> None:
    """The same on three nodes: the CPU time of the tasks and of the driver, whose memory is told."""
    from benchmarks.project import store
    from benchmarks.timed import TimedRay
    from featurestore.retrieval.reads import Reads
    from featurestore.retrieval.training import TrainingReader
    from tests.servers.ray_cluster import ray_cluster

    with ray_cluster(memory=2 << 30) as cluster, store(folder) as opened:
        components = opened.components
        engine = TimedRay.at(cluster.address)
        list(engine.run([]))  # which joins the cluster: its start is not measured
        reader = TrainingReader(opened.settings.project, components.offline, engine, components.scratch)
        request = Reads(components).training_request(spine, json.loads(features), "event_time")
        began = time.process_time()
        reader.sink_parts(request, components.open_folder(sink))
        tell(time.process_time() - began + engine.seconds)
        engine.close()


def materialize_on_local(folder: str, online: str, name: str, rows: str, entities: str) -> None:
    """The floor of a run on a cluster: the CPU time that it takes in one process."""
    from benchmarks.project import store, view

    with store(folder, online) as opened:
        opened.apply([view(name, int(rows), int(entities), "f")])
        began = time.process_time()
        summary = opened.materialize(end="1971-01-01")
        tell(time.process_time() - began)
        assert summary[0].rows_written == int(rows)


def materialize_on_ray(folder: str, online: str, name: str, rows: str, entities: str) -> None:
    """The same on three nodes: the CPU time of the tasks and of the driver, whose memory is told."""
    from benchmarks.project import store, view
    from benchmarks.timed import TimedRay
    from tests.servers.ray_cluster import ray_cluster

    with ray_cluster(memory=4 << 30) as cluster, store(folder, online) as opened:
        opened.apply([view(name, int(rows), int(entities), "f")])
        engine = TimedRay.at(cluster.address)
        opened.components.__dict__["engine"] = engine
        list(engine.run([]))  # which joins the cluster: its start is not measured
        began = time.process_time()
        summary = opened.materialize(end="1971-01-01")
        tell(time.process_time() - began + engine.seconds)
        engine.close()
        assert summary[0].rows_written == int(rows)


def plan_scale() -> None:
    """The plan of a training frame that is larger than any of ours."""
    from benchmarks.plan_scale import plan

    plan()


def rewrite(source: str, target: str) -> None:
    """The floor of a materialization: Polars reads the rows, sorts them, and writes and flushes as many files as ours has."""
    began = time.perf_counter()
    rows = pl.read_parquet(f"{source}/*.parquet").sort("entity", "event_time")
    Path(target).mkdir(exist_ok=True)
    for number, part in enumerate(rows.iter_slices(-(-rows.height // _FILES))):
        part.write_parquet(Path(target) / f"{number}.parquet")
        flush(Path(target) / f"{number}.parquet")
    tell(time.perf_counter() - began)


def materialize(folder: str, name: str, rows: str, entities: str, prefix: str) -> None:
    """Our materialization of one view, into the history and the embedded online store."""
    from benchmarks.project import store, view

    opened = store(folder)
    opened.apply([view(name, int(rows), int(entities), prefix)])
    began = time.perf_counter()
    summary = opened.materialize(end="1971-01-01")
    tell(time.perf_counter() - began)
    assert summary[0].rows_written == int(rows)


def scan_objects(urls: str) -> None:
    """Reads all columns of some objects, as anything that reads Parquet would."""
    import polars as pl

    began = time.perf_counter()
    pl.scan_parquet(json.loads(urls), glob=False, hive_partitioning=False).collect()
    tell(time.perf_counter() - began)


def open_delta(root: str) -> None:
    """Opens a table and asks what there is to know of its files."""
    import polars as pl
    from deltalake import DeltaTable

    from featurestore.offline.delta.history import DeltaStore
    from featurestore.testing.offline import PLAIN

    url = DeltaStore(Path(root)).folder(PLAIN).address().url
    began = time.perf_counter()
    pl.DataFrame(DeltaTable(url).get_add_actions(flatten=True))
    tell(time.perf_counter() - began)


def open_history(root: str) -> None:
    """Looks at a table for the first time in a process."""
    from featurestore.offline.delta.history import DeltaStore
    from featurestore.testing.offline import PLAIN

    store = DeltaStore(Path(root))
    began = time.perf_counter()
    store.snapshot(PLAIN)
    tell(time.perf_counter() - began)


def then(what: str, root: str) -> None:
    """Pushes to a table that was opened, or looks at it for the rows of an hour, after another's commit if asked; the median."""
    import statistics

    from featurestore.clock import to_micros
    from featurestore.offline.delta.history import DeltaStore
    from featurestore.offline.delta.sequence_entries import Intent
    from featurestore.testing.offline import PLAIN, rows

    store, other, at = DeltaStore(Path(root)), DeltaStore(Path(root)), to_micros(datetime(2025, 1, 1, tzinfo=UTC))
    base = max((segment.seq for segment in store.log.segments(PLAIN)), default=0)
    seconds = []
    for number in range(30):
        instant = at + (base + number) * 1_000_000
        if what == "read after another's commit":
            sequence = other.push_log.sequence(PLAIN)
            view = sequence.settle()  # as the files are not there, no run would add to them
            sequence.commit(view, Intent("run", [], view.pushed_with(), view.state.last_run + 1, 0))
        began = time.perf_counter()
        if what == "push":
            store.log.append(PLAIN, rows(*((f"k{place}", instant + place, instant + place, 1.0) for place in range(1000))))
        else:
            store.snapshot(PLAIN, since=at)
        seconds.append(time.perf_counter() - began)
    tell(statistics.median(seconds[5:]))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
