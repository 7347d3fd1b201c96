"""The power is cut at any moment: what was acknowledged is there, the project opens, and what comes next is right (S17).

``POWER_CUTS=50`` makes so many cuts instead of a few. Where the tests are root's, the project lies on a file system of its own, in
an image: what has reached the device at that moment is copied, mounted and opened. Everywhere, a layer that knows what was flushed
makes folders as a file system might leave them: of what was not, each file and each name may be there or not.
"""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from featurestore import FeatureStore, durable
from featurestore.materialization import push
from tests.crashes import ROOT
from tests.workers.power_worker import acts, project, rows

CUTS = int(os.environ.get("POWER_CUTS", "0"))
SEED = int(os.environ.get("POWER_SEED", "20260101"))
_IMAGE_MIB = 160
_PATIENCE = 180.0


class Told:
    """What a worker acknowledged, and what it was at."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.tried: list[tuple[str, int]] = []

    def take(self, line: str) -> None:
        words = line.split()
        (self.tried if words[0] == "try" else self.done).append((words[-2], int(words[-1])))

    def rows_due(self, before: int | None = None) -> set[int]:
        """The numbers of the rows that must be there; of a backup, those from before it was begun."""
        numbers = {number for act, number in self.done if act in ("push", "run")}
        return {number for number in numbers if before is None or number < before}

    def gone(self) -> set[int]:
        return {number for act, number in self.done if act == "forget"}

    def next(self) -> int:
        return max((number for _, number in self.tried), default=0) + 1


def check(folder: Path, registry: str, told: Told) -> None:
    """Opens what a power cut has left, and goes on with it."""
    with project(folder, registry) as store:
        looked = [each for each in store.admin.doctor() if each.check.partition(":")[0] in ("history", "registry")]
        assert [each for each in looked if each.state == "error"] == []
        for view in ("latest", "counts"):
            assert told.rows_due() <= set(numbers(store, view)), view
        store.materialize()
        for view in ("latest", "counts"):
            found = numbers(store, view)
            assert told.rows_due() <= set(found)
            assert not told.gone() & set(found)
            assert len(found) == len(set(found))
        # What is known is known, and what is new is new.
        some = [number for number in sorted(told.rows_due()) if ("push", number) in told.done][-3:]
        for number in some:
            assert [(each.rows_new, each.rows_known) for each in store.push("rows", rows(f"k{number % 5}", number))] == [(0, 1)] * 2
        fresh = told.next()
        told.take(f"try push {fresh}")
        assert [each.rows_new for each in store.push("rows", rows(f"k{fresh % 5}", fresh))] == [1, 1]
        told.take(f"push {fresh}")
        store.materialize()
        # Whoever was forgotten does not come back.
        for number in sorted(told.gone())[-2:]:
            assert [each.rows_new for each in store.push("rows", rows(f"gone{number}", number))] == [0, 0]
        keys = [{"k": f"k{number}"} for number in range(5)]
        online = store.online(["latest", "counts"], keys).to_dicts()
        # A push that was not acknowledged may be in one of them.
        last = dict(store.sql("select k, max(x) from latest group by k").rows())
        count = dict(store.sql("select k, count(*) from counts group by k").rows())
        assert [(row["x"], row["n"]) for row in online] == [(last.get(key["k"]), count.get(key["k"], 0)) for key in keys]
        # The cut may have been at a forgetting, which the doctor tells until it is repeated.
        for act, number in set(told.tried) - set(told.done):
            if act == "forget":
                store.admin.forget("person", {"k": f"gone{number}"})
        assert [each for each in store.admin.doctor() if each.state == "error"] == []
    check_backups(folder, registry, told)


def check_backups(folder: Path, registry: str, told: Told) -> None:
    """What a backup had when it returned is in it, whatever became of the rest."""
    for act, number in told.done:
        copy = folder / f"backup-{number}"
        if act == "backup" and copy.exists():
            restored = folder.parent / f"restored-{folder.name}-{number}"
            restored.mkdir()
            shutil.copytree(copy, restored / ".featurestore")
            with project(restored, registry) as store:
                assert told.rows_due(number) <= set(numbers(store, "latest"))
            shutil.rmtree(restored)
            shutil.rmtree(copy)


def numbers(store: FeatureStore, view: str) -> list[int]:
    """The rows of a history, by their instants, which are their numbers."""
    seconds = "epoch(event_time)::bigint - epoch(timestamptz '2026-01-01 00:00:00+00')::bigint"
    return [int(each) for each in store.sql(f"select {seconds} as number from {view}")["number"]]  # noqa: S608 - our own words


class Disk:
    """What of some folders is on the disk: bytes as of a file's last flush, names as of its folder's.

    A database and an LMDB file flush themselves, and are taken as they are.
    """

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._names: dict[Path, dict[str, int]] = {}
        self.flushed = 0

    def flush(self, descriptor: int) -> None:
        """Stands in for ``durable._sync``."""
        self.flushed += 1
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            with os.scandir(path) as entries:
                found = {entry.name: (entry.inode(), entry.is_file()) for entry in entries}
            self._names[path] = {name: number for name, (number, _) in found.items()}
            for name, (number, is_file) in found.items():
                if is_file and not (self._kept / f"name-{number}").exists():
                    os.link(path / name, self._kept / f"name-{number}")  # so that its number is not given to another
        else:
            number = os.fstat(descriptor).st_ino
            shutil.copyfile(f"/proc/self/fd/{descriptor}" if not path.exists() else path, self._kept / f"bytes-{number}")

    def cut(self, source: Path, target: Path, draw: random.Random) -> None:
        """Makes a folder as it may be found after the power was cut now."""
        target.mkdir()
        there = {each.name: each.stat().st_ino for each in source.iterdir()} if source.is_dir() else {}
        flushed = self._names.get(source, {})
        own = {name for name in there if name.startswith("registry.db") or source.name == "online" or name == "online"}
        for name in sorted({*there, *flushed}):
            sides = [there.get(name), there.get(name) if name in own else flushed.get(name)]
            number = sides[0] if sides[0] == sides[1] else draw.choice(sides)
            if number is None:
                continue
            path = source / name
            if path.is_dir():
                if name == "online":
                    shutil.copytree(path, target / name)
                else:
                    self.cut(path, target / name, draw)
                continue
            now = path if there.get(name) == number else self._kept / f"name-{number}"
            if not now.exists():
                continue
            kept = self._kept / f"bytes-{number}"
            whole = now.read_bytes()
            if name in own or (kept.exists() and kept.read_bytes() == whole):
                (target / name).write_bytes(whole)
            else:
                before = kept.read_bytes() if kept.exists() else b""
                (target / name).write_bytes(draw.choice([before, whole, whole[: len(whole) // 2]]))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_f1_nothing_acknowledged_is_lost_by_what_was_not_flushed(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "_MOST_SEGMENTS", 3)
    draw, told, kept = random.Random(SEED + seed), Told(), tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "data").mkdir()
    rows("source", 0).write_parquet(tmp_path / "data" / "0.parquet")
    disk, home = Disk(kept), tmp_path / "project"
    home.mkdir()
    cuts: list[tuple[Path, Told]] = []
    wanted = set(draw.sample(range(40, 330), max(3, CUTS // 3)))

    def flush(descriptor: int) -> None:
        disk.flush(descriptor)
        if disk.flushed in wanted:
            target = tmp_path / f"cut-{disk.flushed}"
            disk.cut(home, target, draw)
            before = Told()
            before.done, before.tried = [*told.done], [*told.tried]
            cuts.append((target, before))

    monkeypatch.setattr(durable, "_sync", flush)
    with project(home, "") as store:
        for line in acts(store, 1):
            told.take(line)
            if disk.flushed > 330:
                break
    monkeypatch.undo()
    assert len(cuts) >= 3
    for target, before in cuts:
        check(target, "", before)


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        wait_until(lambda: subprocess.run(["umount", folder], check=False, capture_output=True).returncode == 0, "it is in use")


def can_mount(tmp_path: Path) -> bool:
    if os.name == "nt" or os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        return False
    image = make_image(tmp_path / "trial", 8)
    try:
        with mounted(image, tmp_path / "trial-mounted"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def make_image(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, capture_output=True)
    return path


def cut_the_power(worker: "subprocess.Popen[str]", told: Told, image: Path, copy: Path) -> None:
    """Waits until a worker stands still, takes what has reached the device, and ends the worker."""
    tasks = Path(f"/proc/{worker.pid}/task")
    assert worker.stdout is not None
    said, printed = worker.stdout.fileno(), b""

    def stands() -> bool:
        nonlocal printed
        while select.select([said], [], [], 0)[0] and (more := os.read(said, 1 << 16)):
            printed += more
        try:
            states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()]
        except (FileNotFoundError, ProcessLookupError):  # a thread has ended
            return worker.poll() is not None
        return all(state == "T" for state in states) or worker.poll() is not None

    wait_until(stands, "the worker does not come to its point")
    assert worker.poll() is None, worker.stderr.read() if worker.stderr else ""
    # NOTE: copied without a sync: of what lies in the image's page cache, only what the file system wrote to the device is in it.
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    worker.send_signal(signal.SIGKILL)
    for line in printed.decode().splitlines():
        told.take(line)


def survive(tmp_path: Path, registry: str, cuts: int) -> None:
    if not can_mount(tmp_path):
        pytest.skip("it takes root, mkfs.ext4 and a loop device to cut the power of an image")
    draw, told = random.Random(SEED + cuts + bool(registry)), Told()
    image = make_image(tmp_path / "image-0", _IMAGE_MIB)
    (tmp_path / "data").mkdir()
    rows("source", 0).write_parquet(tmp_path / "data" / "0.parquet")
    told.take("try run 0")
    with mounted(image, tmp_path / "disk") as disk:
        with project(disk, registry) as store:
            store.materialize()
        subprocess.run(["sync", "-f", disk], check=True)
    told.take("run 0")
    for number in range(cuts):
        point = draw.randrange(200, 36_000)
        with mounted(image, tmp_path / "disk") as disk:
            words = [str(disk), registry, str(told.next()), str(point)]
            # NOTE: an interpreter of its own, for it is told by line what is acknowledged, and nothing else may have the disk open.
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.power_worker", *words],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                cut_the_power(worker, told, image, tmp_path / f"image-{number + 1}")
            finally:
                worker.kill()
                worker.communicate()
        image.unlink()
        image = tmp_path / f"image-{number + 1}"
        with mounted(image, tmp_path / "disk") as disk:
            try:
                check(disk, registry, told)
            except AssertionError as error:
                raise AssertionError(f"cut {number + 1} of {cuts}, at call {point}, while at {told.tried[-1]}: {error}") from error
            subprocess.run(["sync", "-f", disk], check=True)
        print(f"cut {number + 1}: {len(told.done)} acknowledged, at {told.tried[-1]}", flush=True)


@pytest.mark.slow
def test_f1_nothing_acknowledged_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    survive(tmp_path, "", 2)


@pytest.mark.slow
def test_f1_nothing_acknowledged_is_lost_by_many_power_cuts(tmp_path: Path) -> None:
    survive(tmp_path, "", CUTS or 6)


@pytest.mark.slow
def test_f1_nothing_acknowledged_is_lost_by_many_power_cuts_beside_postgresql(tmp_path: Path, postgres_url: str) -> None:
    survive(tmp_path, postgres_url, CUTS or 4)
