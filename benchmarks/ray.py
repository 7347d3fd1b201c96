"""The engine on Ray, three nodes on this machine, against the local engine: the CPU time of the tasks, and the driver's memory."""

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from benchmarks import data
from benchmarks.measure import DATA, Line, Measured, in_process
from benchmarks.project import USER, events, materialized, store, windowed
from featurestore import Feature, FeatureView
from tests.servers.valkey import ValkeyServer

EVENTS, ENTITIES = 10_000_000, 100_000
SPAN = 30 * data.DAY
SPINES = (2_000_000, 10_000_000)
RUN = 2_000_000


def lines(*, full: bool) -> Iterator[Line]:
    """Measures a spine of 2M rows (in full also of 10M) over two views of 10M events, one of them of windows."""
    if find_spec("ray") is None:
        yield Line("Ray, 3 nodes", "-", "-", "-", "pip install 'featurestore[ray]'", None)
        return
    source = events(EVENTS, ENTITIES)
    body = {"__annotations__": {"x0": float}, "__module__": __name__, "x0": Feature()}
    newest = type("newest", (FeatureView,), body, entity=USER, source=source, name="newest")
    materialized("ray", [newest, windowed("recent", source, "x0")]).close()
    for rows in SPINES if full else SPINES[:1]:
        yield _line(rows)
    yield _run()


def _run() -> Line:
    """Measures a run of 2M rows × 10 features into a history and Valkey, whose contents are compared."""
    data.source("runs", RUN, ENTITIES, "f")
    with ValkeyServer() as server:
        measured = {}
        for number, engine in enumerate(("local", "ray")):
            shutil.rmtree(DATA / f"run-{engine}", ignore_errors=True)
            online = f"{server.url}/{number}"
            measured[engine] = in_process(f"materialize_on_{engine}", f"run-{engine}", online, "runs", str(RUN), str(ENTITIES))
        stores = [store(f"run-{engine}", f"{server.url}/{number}") for number, engine in enumerate(("local", "ray"))]
        keys = [{"entity": key} for key in stores[0].sql("select distinct entity from runs")["entity"]]
        frames = [opened.sql("from runs").sort(pl.all()) for opened in stores]
        values = [opened.online("runs", keys).to_polars() for opened in stores]
        assert frames[0].equals(frames[1], null_equal=True), "the histories differ"
        assert values[0].equals(values[1], null_equal=True), "the online values differ"
    return _compared(f"a run of {RUN // 1_000_000}M rows × 10 features to a history and Valkey, Ray with 3 nodes", measured)


def _line(rows: int) -> Line:
    spine, names = str(data.spine(rows, ENTITIES, span=SPAN)), json.dumps(["newest", "recent"])
    folders = {engine: DATA / f"ray-{engine}" for engine in ("local", "ray")}
    measured = {}
    for engine, folder in folders.items():
        shutil.rmtree(folder, ignore_errors=True)
        measured[engine] = in_process(f"training_on_{engine}", "ray", spine, names, f"{folder}/")
    assert _equal(folders["local"], folders["ray"]), "the two engines differ"
    return _compared(f"2 views, one of windows: {rows // 1_000_000}M spine × 10M rows, Ray with 3 nodes, sink=", measured)


def _compared(what: str, measured: Mapping[str, Measured]) -> Line:
    """Returns the line of what both engines have done, equally: the cluster's CPU time over the local one's."""
    ours, floor = measured["ray"], measured["local"]
    ratio = ours.seconds / floor.seconds
    return Line(
        what,
        f"{ours.seconds:.1f} s of CPU, {ours.peak_mib:,} MiB (driver)",
        f"{floor.seconds:.1f} s of CPU, {floor.peak_mib:,} MiB (local)",
        f"{ratio:.2f}×",
        "≤ 1.3×, ≤ 400 MiB, equal",
        ratio <= 1.3 and ours.peak_mib <= 400,
    )


def _equal(one: Path, other: Path) -> bool:
    """Whether two results have the same rows, column by column: how many parts they have is the engine's to say."""
    scans = [pl.scan_parquet(sorted(folder.glob("part-*.parquet"))) for folder in (one, other)]
    names = scans[0].collect_schema().names()
    return names == scans[1].collect_schema().names() and all(
        scans[0].select(name).collect().equals(scans[1].select(name).collect(), null_equal=True) for name in names
    )
