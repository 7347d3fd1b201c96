"""The crash harness: workers in processes of their own, killed at any call of the feature store, and started again.

A worker is a module of ``tests/workers``: ``python -m tests.workers.NAME FOLDER WORDS… POINT`` does its work within
``killed_at(POINT)``. A point is the number of a call of a function of the package, in any thread; 0 is none. At its end the worker
prints how many calls there were, so a test draws its points from the whole of the work. The test's side of it is ``Worker``, which
has the process forked (``tests/processes.py``).
"""

import itertools
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import featurestore
from tests.processes import CONTEXT

ROOT = Path(__file__).parent.parent
_PACKAGE = str(Path(featurestore.__file__).parent)


@contextmanager
def signalled_at(point: int, number: int = signal.SIGKILL) -> Iterator[Iterator[int]]:
    """Sends the process a signal at a call of the package within, of whatever thread; yields what counts the calls."""
    counter = itertools.count(1)

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_PACKAGE) and next(counter) == point:
            os.kill(os.getpid(), number)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield counter
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@contextmanager
def killed_at(point: int) -> Iterator[None]:
    """Kills the process at a call of the package within; prints how many calls there were if it comes to its end."""
    with signalled_at(point) as counter:
        yield
    print(next(counter) - 1)


class Started:
    """A worker that runs. What it prints goes to files beside its folder.

    Args:
        name: its module's in ``tests/workers``.
        folder: the project's.
        words: what ``main`` is given.
    """

    _numbers = itertools.count()

    def __init__(self, name: str, folder: Path, words: list[str]) -> None:
        number = next(self._numbers)
        self._printed, self._error = (folder.with_name(f"{folder.name}-{number}.{kind}") for kind in ("printed", "error"))
        self._process = CONTEXT.Process(target=_work, args=(name, words, self._printed, self._error))
        self._process.start()

    def poll(self) -> int | None:
        """Returns how it ended; None if it has not."""
        return self._process.exitcode

    def end(self, seconds: float) -> tuple[int, str, str]:
        """Waits for its end; returns how it ended, and what it printed to stdout and stderr."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        assert code is not None, f"it did not come to its end in {seconds} s: {self._error.read_text()}"
        return code, self._printed.read_text(), self._error.read_text()


def _work(name: str, words: list[str], printed: Path, error: Path) -> None:
    """Does a worker's work in a process that was forked for it."""
    for number, path in ((1, printed), (2, error)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(ROOT)
    import_module(f"tests.workers.{name}").main(*words)


class Worker:
    """A worker as a test starts, kills and repeats it.

    Args:
        name: its module's in ``tests/workers``.
        seconds: for how long a test waits for its end.
    """

    def __init__(self, name: str, seconds: float = 120) -> None:
        self._name = name
        self._seconds = seconds

    def start(self, folder: Path, *words: object, point: int = 0) -> Started:
        """Starts it in a project's folder, which is made."""
        folder.mkdir(exist_ok=True)
        return Started(self._name, folder, [str(folder), *map(str, words), str(point)])

    def finish(self, process: Started) -> int:
        """Waits for one that is to come to its end; returns how many calls it made."""
        code, printed, error = process.end(self._seconds)
        assert code == 0, error
        return int(printed)

    def die(self, process: Started) -> str:
        """Waits for one that is to be killed, or that does its work in fewer calls than its point; returns what it printed."""
        code, printed, error = process.end(self._seconds)
        assert code in (-signal.SIGKILL, 0), error
        return printed

    def run(self, folder: Path, *words: object) -> int:
        """Lets it do its work undisturbed; returns how many calls it made."""
        return self.finish(self.start(folder, *words))

    def kill(self, folder: Path, *words: object, point: int) -> str:
        """Lets it work until that call; returns what it printed."""
        return self.die(self.start(folder, *words, point=point))

    def run_twice_at_once(self, folder: Path, *words: object) -> None:
        """Lets two of it do the same work in one project at the same time."""
        for process in [self.start(folder, *words), self.start(folder, *words)]:
            self.finish(process)

    def survive(self, folder: Path, *words: object, calls: int, draw: random.Random, kills: int = 2) -> None:
        """Kills it at so many random calls of its work, one after the other in one project; then lets it come to its end."""
        for _ in range(kills):
            self.kill(folder, *words, point=draw.randrange(1, calls))
        self.run(folder, *words)
