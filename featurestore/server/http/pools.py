"""Thread pools, one for each kind of work, with short queues.

Work that finds the line full is refused at once, and work whose caller stops waiting before it has begun is dropped.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from featurestore.errors import UnavailableError
from featurestore.server.limits import Limits

T = TypeVar("T")

_CONTROL, _READS = 4, 2
_CONTROL_WAITING, _READS_WAITING = 64, 32


class Pool:
    """Threads for one kind of work.

    Args:
        name: what it is for, as a refusal says it ("pushes").
        threads: how many work at once.
        waiting: how many may wait for one of them.
        setting: the setting that says how many; named where work is refused.
    """

    def __init__(self, name: str, threads: int, waiting: int, setting: str = "") -> None:
        self._name = name
        self._most = threads + waiting
        self._setting = setting
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"featurestore-{name}")
        self._lock = threading.Lock()
        self._taken = 0

    def check(self) -> None:
        """Refuse early, before a body is read for work that would be refused then.

        Raises:
            UnavailableError: all places are taken.
        """
        with self._lock:
            self._check()

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of work done in a thread of this pool. A caller that stops waiting before it has begun drops it.

        Raises:
            UnavailableError: all places are taken.
        """
        with self._lock:
            self._check()
            self._taken += 1
        future = self._threads.submit(work)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads once they are done with what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._taken >= self._most:
            more = f" ({self._setting})" if self._setting else ""
            raise UnavailableError(f"The server has as many {self._name} to work on as it takes at once{more}. Try again later.", 1)

    def _done(self, future: "Future[Any]") -> None:
        with self._lock:
            self._taken -= 1


class Pools:
    """The pools of a server.

    Args:
        limits: how many pushes and training frames are worked on at once.
    """

    def __init__(self, limits: Limits) -> None:
        self.control = Pool("control", _CONTROL, _CONTROL_WAITING)
        """Readiness, metrics, documents: what must be answered whatever else there is to do."""
        self.reads = Pool("reads", _READS, _READS_WAITING)
        """Look-ups whose bodies are too large to be decoded between others."""
        self.pushes = Pool(
            "pushes", limits.pushes, limits.pushes_waiting, "server.max_concurrent_pushes, server.max_waiting_pushes"
        )
        self.training = Pool("training frames", limits.training, limits.training, "server.max_concurrent_training")
        self.answers = Pool("answers", limits.training, limits.training, "server.max_concurrent_training")
        """The parts of training frames on their way out."""

    def close(self) -> None:
        """End all of them."""
        for pool in (self.control, self.reads, self.pushes, self.training, self.answers):
            pool.close()
