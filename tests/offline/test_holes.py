"""A hole in a history is found by the doctor and at the next commit, never covered, and mended from what is on the disk."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, ParquetSource, count
from featurestore.clock import from_micros
from featurestore.errors import DamagedHistoryError, OfflineStoreError
from featurestore.offline.delta.table import open_state
from featurestore.offline.local_folder import LocalFolder
from tests.oracle import Row
from tests.projects import frame_of, store_at, view_of

KEYS = {"k": str}
NOW = 10_000


def rows(first: int, count: int = 10) -> pl.DataFrame:
    made = [Row((f"k{at % 5}",), at, at, (float(at),)) for at in range(first, first + count)]
    return frame_of(made, {"k": pl.String}, {"x": pl.Float64})


def definitions() -> list[type[FeatureView]]:
    source = ParquetSource("rows", "../data/*.parquet", event_time="event", available_time="available")

    class W(FeatureView, entity=Entity("entity_w", **KEYS), source=source):
        n: int = count().over("1h")

    return [view_of(source, KEYS, {"x": float | None}), W]


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cleans a log up here while it is read: what cannot be read is not tried twenty times, with pauses in between."""
    monkeypatch.setattr("featurestore.offline.delta.open._ATTEMPTS", 2)
    monkeypatch.setattr("featurestore.offline.delta.open._PAUSE", 0.0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of which three runs and a fold are done: run 4 took over what was pushed."""
    folder = tmp_path_factory.mktemp("holes")
    (folder / "data").mkdir()
    rows(0).write_parquet(folder / "data" / "0.parquet")
    with store_at(folder / "project", lambda: from_micros(NOW)) as made:
        made.apply(definitions())
        made.materialize()
        for first in (100, 200):
            rows(first).write_parquet(folder / "data" / f"{first}.parquet")
            made.materialize()
        made.push("rows", rows(300, 1))
        made.materialize()
        assert made.sql("from v").height == made.sql("from w").height == 31
    return folder


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    with store_at(tmp_path / "project", lambda: from_micros(NOW)) as copied:
        copied.apply(definitions())
        yield copied


def again(store: FeatureStore) -> FeatureStore:
    """The store as another process has it, which remembers nothing."""
    other = FeatureStore(store.settings.root, project="test", clock=lambda: from_micros(NOW))
    other.apply(definitions())
    return other


def table(store: FeatureStore, view: str = "v") -> Path:
    return store.settings.root / ".featurestore/offline" / "test" / view / "v1"


def entries(store: FeatureStore) -> list[Path]:
    return sorted((table(store) / "_delta_log").glob("*.json"))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_after_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def zeroed(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def deleted(path: Path) -> None:
    path.unlink()


DAMAGE: list[Callable[[Path], None]] = [emptied, cut_in_a_line, cut_after_a_line, zeroed, deleted]
PLACES = {"last": slice(-1, None), "last two": slice(-2, None), "last three": slice(-3, None), "middle": slice(2, 3)}


def errors(store: FeatureStore) -> list[str]:
    return [each.message for each in store.admin.doctor() if each.state == "error" and each.check.startswith("history")]


def placed(place: str, damage: Callable[[Path], None]) -> Any:
    """A case of the table: at the log's end every damage is another one, in its midst whether an entry can be read at all.

    The quick run has one that is there and is too short, one that is gone, and one in the midst.
    """
    often = (place, damage) in (("last", cut_after_a_line), ("last", deleted), ("middle", cut_in_a_line))
    return pytest.param(damage, place, marks=[] if often else pytest.mark.slow, id=f"{damage.__name__}-{place}")


@pytest.mark.parametrize(("damage", "place"), [placed(place, damage) for place in PLACES for damage in DAMAGE])
def test_f2_a_lost_entry_is_found_and_never_covered(
    store: FeatureStore, tmp_path: Path, damage: Callable[[Path], None], place: str
) -> None:
    before = store.sql("from v").sort(pl.all())
    for path in entries(store)[PLACES[place]]:
        damage(path)
    with again(store) as other:
        assert errors(other)
        rows(400).write_parquet(tmp_path / "data" / "400.parquet")
        for _ in range(2):
            with pytest.raises(DamagedHistoryError, match=r"test/v/v1.*featurestore doctor --repair"):
                other.materialize(["v"])
        with pytest.raises(OfflineStoreError):
            other.admin.maintain(["v"])
        assert errors(other)
        assert [each.rows_written for each in other.materialize(["w"])] == [10]
        # What was pushed meanwhile is not lost either, whatever number it got.
        if place != "middle" and damage in (emptied, deleted):
            other.push("rows", rows(500, 1), views=["v"])
        mended = [each.message for each in other.admin.doctor(repair=True) if each.check == "repair: v"]
        assert mended[0].endswith("rows were put back")
        assert not errors(other)
        other.materialize(["v"])
        found = other.sql("from v").sort(pl.all())
        assert found.filter(pl.col("x") < 400).equals(before)
        assert found.height in (41, 42)
        assert other.online("v", [{"k": "k0"}]).to_dicts()[0]["x"] in (405.0, 500.0)
        assert other.admin.doctor().is_well or {each.check for each in other.admin.doctor() if each.state == "error"} == {
            "clock: history",
            "clock: online",
        }


OFTEN = {(1, emptied), (2, cut_in_a_line), (2, deleted), (4, deleted)}
"""Of the damages to data files those that are tried each time: every kind, and every run."""


@pytest.mark.parametrize(
    ("run", "damage"),
    [
        pytest.param(run, damage, marks=[] if (run, damage) in OFTEN else pytest.mark.slow, id=f"{run}-{damage.__name__}")
        for run in (1, 2, 4)
        for damage in (emptied, cut_in_a_line, deleted)
    ],
)
def test_f2_a_lost_data_file_is_found_and_never_covered(
    store: FeatureStore, tmp_path: Path, damage: Callable[[Path], None], run: int
) -> None:
    for path in table(store).glob(f"_bucket=*/run-{run:08d}-*.parquet"):
        damage(path)
    rows(400).write_parquet(tmp_path / "data" / "400.parquet")
    with again(store) as other:
        assert any(f"run-{run:08d}" in told for told in errors(other))
        with pytest.raises(DamagedHistoryError, match=f"run-{run:08d}"):
            other.materialize(["v"])
        assert any("nowhere on the disk" in each.message for each in other.admin.doctor(repair=True) if each.check == "repair: v")
        with pytest.raises(DamagedHistoryError):
            other.materialize(["v"], start="1970-01-01")
        other.materialize(["v"], start="0001-01-01")
        assert not errors(other)
        kept = other.sql("from v")
        # The source has all but what was pushed, which is given up and told for good.
        assert kept.height == (40 if run == 4 else 41)
        [told] = [each.message for each in other.admin.doctor() if "mended without" in each.message]
        assert told == f"it was mended without {1 if run == 4 else 10} rows"


@pytest.mark.parametrize("damage", [emptied, cut_in_a_line, deleted], ids=lambda each: each.__name__)
def test_f2_a_push_that_is_lost_before_a_run_took_it_over_is_found(store: FeatureStore, damage: Callable[[Path], None]) -> None:
    store.push("rows", rows(500, 1))
    store.push("rows", rows(600, 1))
    [first, _] = sorted(table(store).glob("_pushed/*.parquet"))
    damage(first)
    with again(store) as other:
        assert errors(other)
        with pytest.raises(OfflineStoreError, match=rf"{first.name}|segments {int(first.stem)}"):
            other.materialize(["v"])
        other.materialize(["v"], start="0001-01-01")
        assert not errors(other)
        assert sorted(other.sql("from v")["x"].to_list())[-2:] == [300.0, 600.0]


@pytest.mark.parametrize("lost", [1, 2], ids=["the last", "all"])
def test_f2_the_last_pushes_that_are_lost_are_found_and_their_numbers_are_not_given_again(store: FeatureStore, lost: int) -> None:
    """A number given again would be taken for one that is in windows online already."""
    store.push("rows", rows(500, 1))
    store.push("rows", rows(600, 1))
    pushes = sorted(table(store).glob("_pushed/*.parquet"))
    for segment in pushes[-lost:]:
        segment.unlink()
    with again(store) as other:
        assert any(f"{lost} pushes that wait for a run are gone" in told for told in errors(other))
        other.push("rows", rows(700, 1))
        assert max(int(path.stem) for path in table(store).glob("_pushed/*.parquet")) == int(pushes[-1].stem) + 1
        with pytest.raises(DamagedHistoryError, match=f"segments {int(pushes[-lost].stem)}"):
            other.materialize(["v"])
        other.admin.backup("copy")
        other.materialize(["v"], start="0001-01-01")
        assert not errors(other)
        assert sorted(other.sql("from v")["x"].to_list())[-2:] == [300.0 if lost == 2 else 500.0, 700.0]
        other.push("rows", rows(800, 1))
        other.materialize(["v"])
        assert not errors(other)


def test_f2_a_history_that_is_gone_is_not_begun_again_unasked(store: FeatureStore) -> None:
    shutil.rmtree(table(store))
    with again(store) as other:
        assert errors(other) == ["run 4 is done by the registry, but the history has none"] or "runs 1 to 4" in errors(other)[0]
        with pytest.raises(DamagedHistoryError):
            other.materialize(["v"])
        other.materialize(["v"], start="0001-01-01")
        assert other.sql("from v").height == 30


def test_a_registry_from_an_older_backup_is_no_hole(store: FeatureStore, tmp_path: Path) -> None:
    store.admin.backup("copy")
    rows(400).write_parquet(tmp_path / "data" / "400.parquet")
    store.materialize()
    store.close()
    for left in (store.settings.root / ".featurestore").glob("registry.db*"):
        left.unlink()
    shutil.copy(store.settings.root / "copy" / "registry.db", store.settings.root / ".featurestore" / "registry.db")
    with again(store) as other:
        assert not errors(other)
        other.materialize()
        assert other.sql("from v").height == 41


def test_upkeep_forget_and_splits_leave_no_hole(store: FeatureStore, tmp_path: Path) -> None:
    """Whatever is written to a table, its last entry says how many rows it has."""
    for number in range(12):
        rows(1000 + 100 * number).write_parquet(tmp_path / "data" / f"{1000 + number}.parquet")
        store.materialize()
    store.admin.maintain(retention=timedelta(0))
    assert not errors(store)
    store.admin.forget("entity_v", {"k": "k1"})
    assert not errors(store)
    store.push("rows", rows(5000, 1))
    store.materialize()
    with again(store) as other:
        assert not errors(other)


def test_a_history_of_the_version_before_is_read_and_written(store: FeatureStore, tmp_path: Path) -> None:
    """Its commits do not say how many rows there are, and its table not which definition made it."""
    for path in entries(store):
        lines = path.read_text().splitlines()
        plain = [line.replace(',"rows":"', ',"former":"').replace('"featurestore.definition"', '"former"') for line in lines]
        path.write_text("\n".join(plain))
    with again(store) as other:
        assert not errors(other)
        rows(400).write_parquet(tmp_path / "data" / "400.parquet")
        other.materialize()
        assert other.sql("from v").height == 41
        emptied(entries(store)[-1])
    with again(store) as other:
        assert errors(other)


def test_s16_mending_does_not_bring_back_who_was_forgotten(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forgot was killed between the commit without them and the deletion of the files with them."""

    def killed(folder: LocalFolder, names: Iterable[str], *, lasting: bool = False) -> None:
        if any(name.startswith("_bucket=") for name in names):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            store.admin.forget("entity_v", {"k": "k1"})
    assert "k1" not in store.sql("from v")["k"].to_list()
    kept = store.sql("from v").height
    named = {file.path for file in open_state(LocalFolder(table(store))).files}
    lost = next(
        path for path in sorted(table(store).glob("_bucket=*/run-00000002-*")) if str(path.relative_to(table(store))) in named
    )
    count = pl.read_parquet(lost, glob=False).height
    lost.unlink()
    with again(store) as other:
        told = [each.message for each in other.admin.doctor(repair=True) if each.check == "repair: v"]
        assert told[0] == f"{count} rows were put back"  # from the file that has the forgotten one, too
        assert not errors(other)
        found = other.sql("from v")
        assert "k1" not in found["k"].to_list()
        assert found.height == kept


def test_s16_forgetting_takes_what_a_repair_moved_aside(store: FeatureStore) -> None:
    """Nobody can tell whose rows are in what cannot be read."""
    emptied(entries(store)[-1])
    aside = table(store) / "_damaged"
    with again(store) as other:
        other.admin.doctor(repair=True)
        assert list(aside.iterdir())
        other.admin.forget("entity_v", {"k": "k1"}, dry_run=True)
        assert list(aside.iterdir())
        other.admin.forget("entity_v", {"k": "k1"})
        assert not list(aside.glob("*"))
        assert not errors(other)
