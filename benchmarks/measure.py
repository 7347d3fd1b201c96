"""How things are measured: times in turn with their floor, and memory in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / ".data"
"""Where generated inputs and stores lie between runs; delete it to begin anew."""


@dataclass(frozen=True)
class Measured:
    """One run of a task in a process of its own: seconds it says it took, and the process's peak memory."""

    seconds: float
    peak_mib: int


@dataclass(frozen=True)
class Line:
    """One line of the table; ``holds`` is None where there is no reach to hold, and the figure is there to be known."""

    what: str
    ours: str
    floor: str
    ratio: str
    reach: str
    holds: bool | None


def in_process(task: str, *arguments: str, runs: int = 1) -> Measured:
    """Runs ``benchmarks.tasks.<task>`` in a new process; the fastest of so many runs, with the greatest peak."""
    found = []
    for _ in range(runs):
        command = [sys.executable, "-m", "benchmarks.tasks", task, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return Measured(min(each["seconds"] for each in found), max(each["peak_mib"] for each in found))


def flush(path: Path) -> None:
    """Has a file and its name on the disk, as whatever a store acknowledges is: a floor does what it is the floor of."""
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def tell(seconds: float) -> None:
    """Prints what ``in_process`` reads: called by a task at its end."""
    # NOTE: ru_maxrss would be the parent's where that was greater, for a new process begins with its parent's memory.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def in_turn(ours: Callable[[], object], floor: Callable[[], object], calls: int, warm_up: int = 50) -> tuple[float, float]:
    """Returns the median seconds of two calls, made in turn so that noise falls on both alike."""
    for _ in range(warm_up):
        ours()
        floor()
    times: tuple[list[float], list[float]] = ([], [])
    clock = time.perf_counter
    for _ in range(calls):
        for call, found in ((ours, times[0]), (floor, times[1])):
            began = clock()
            call()
            found.append(clock() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def microseconds(seconds: float) -> str:
    """Returns a short time for the table."""
    return f"{seconds * 1e6:,.0f} µs"
