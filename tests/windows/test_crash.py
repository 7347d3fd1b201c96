"""S17 under fire, for windowed views: pushes and runs killed at any point and repeated leave what a quiet process leaves."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.clock import from_micros
from tests.crashes import Worker
from tests.window_oracle import Event
from tests.windowed import frame_of_events
from tests.workers.window_worker import LAYOUT, NOW, store_of

SEED = 20130601
KEYS = [("a", 0), ("a", -1), ("b", 0), ("b", -1), ("never", 0)]
INSTANTS = [NOW, NOW + 40, NOW + 200, NOW + 330]


def drawn() -> list[Event]:
    """Rows of which some are late, corrected, null, or there several times."""
    draw = random.Random(SEED)
    rows = [
        Event(
            draw.choice(KEYS[:4]),
            event := NOW - draw.randrange(700),
            min(NOW, event + draw.choice([0, 0, 5, 400])),
            (draw.choice([None, 1e15, 1e-3, 2.5]), draw.choice([None, 2**53 + 1, 4]), draw.choice("ab"), draw.choice([True, None])),
            draw.randrange(150),
        )
        for _ in range(300)
    ]
    return list({(row.key, row.id, row.known): row for row in rows}.values())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with source files, and files of rows to push: some of them in both, some repeated in one of them."""
    folder = tmp_path_factory.mktemp("window-crash")
    rows = drawn()
    for place, parts in {
        "data": [rows[:100], rows[100:220] + rows[215:220]],
        "push": [rows[50:90], rows[80:120] + rows[80:85], rows[200:]],
    }.items():
        (folder / place).mkdir()
        for number, part in enumerate(parts):
            frame_of_events(part).write_parquet(folder / place / f"{number}.parquet")
    return folder


def written() -> list[Event]:
    """The rows as they count without an event id (S9): as often as the read that had them most often.

    Two are one row only if they agree in all columns of the source, of which its ids are one here, whatever the view makes of it.
    """
    rows = drawn()
    reads = [rows[:220] + rows[215:220], rows[50:90], rows[80:120] + rows[80:85], rows[200:]]
    most: Counter[Event] = Counter()
    for read in reads:
        most |= Counter(read)
    return [replace(row, id=None) for row in most.elements()]


def left(folder: Path, online: str | None) -> dict[str, Any]:
    """All that a project's stores hold: the history's rows, and what is read online as time goes on."""
    found: dict[str, Any] = {}
    with store_of(folder, online) as store:
        for view in ("v", "w"):
            found[view] = sorted(map(repr, store.sql(f"from {view}").rows()))
            rows = [{"k": k, "n": n} for k, n in KEYS]
            found[f"{view} online"] = [repr(store.online(view, rows, at=from_micros(t)).to_dicts()) for t in INSTANTS]
    return found


WORKER = Worker("window_worker", seconds=300)


@pytest.fixture(scope="module")
def quiet(data: Path) -> int:
    """How many calls an undisturbed process makes."""
    return WORKER.run(data / "quiet", "")


def check(folder: Path, online: str | None) -> None:
    """Asserts that training frames and online reads are what the oracle says."""
    with store_of(folder, online) as store:
        for view, rows in (("v", drawn()), ("w", written())):
            spine = pl.DataFrame([(*key, from_micros(t)) for t in INSTANTS for key in KEYS], schema=["k", "n", "t"], orient="row")
            trained = store.training_frame(spine, view, time="t").to_dicts()
            for number, t in enumerate(INSTANTS):
                online_rows = store.online(view, [{"k": k, "n": n} for k, n in KEYS], at=from_micros(t)).to_dicts()
                for place, key in enumerate(KEYS):
                    assert not LAYOUT.differences(rows, key, t, trained[number * len(KEYS) + place]), "training"
                    assert not LAYOUT.differences(rows, key, t, online_rows[place]), "online"


def survive(data: Path, calls: int, online: str, points: int) -> None:
    """Kills processes at so many random points, two in turn in one project, then lets one finish; looks at what is left."""
    draw = random.Random(SEED + points + len(online))
    for number in range(points // 2):
        folder = data / f"{'valkey' if online else 'lmdb'}-{points}-{number}"
        WORKER.survive(folder, online, calls=calls, draw=draw)
        check(folder, online or None)


def test_s17_a_quiet_process_leaves_what_the_oracle_says_and_so_do_two(data: Path, quiet: int) -> None:
    check(data / "quiet", None)
    before = left(data / "quiet", None)
    WORKER.run(data / "quiet", "")
    assert left(data / "quiet", None) == before


@pytest.mark.slow
@pytest.mark.parametrize("online", ["", "valkey_url"])
def test_s17_killed_at_many_points(data: Path, quiet: int, online: str, request: pytest.FixtureRequest) -> None:
    survive(data, quiet, request.getfixturevalue(online) if online else "", 6)


@pytest.mark.parametrize("online", [pytest.param("", marks=pytest.mark.slow), "valkey_url"])
def test_s17_two_processes_at_once(data: Path, online: str, request: pytest.FixtureRequest) -> None:
    address = request.getfixturevalue(online) if online else ""
    folder = data / f"twice-{online}"
    folder.mkdir()
    store_of(folder, address or None).close()
    WORKER.run_twice_at_once(folder, address)
    check(folder, address or None)
