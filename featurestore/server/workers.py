"""Worker processes: each is replaced when it dies or stops responding."""

import logging
from time import perf_counter
from typing import Any

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

_log = logging.getLogger("featurestore.server")
_GLANCE = 0.05
"""For how many seconds an answer is waited for at a time: a signal waits as long."""


class Workers(Multiprocess):
    """uvicorn's supervisor, which gives a worker as long to start as the settings say, and answers signals meanwhile.

    uvicorn asks a worker every half a second whether it lives, and kills it where the answer does not come. A worker that
    imports large libraries on a busy machine cannot answer for a while, and would be killed again and again.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._asked: dict[int, float] = {}
        """Since when the workers that have not answered are asked, by their ids."""

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have died, or have not answered for too long."""
        for place, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if process.process.is_alive() and self._answers(process):
                continue
            if process.process.is_alive():
                _log.error(
                    "The worker %s has not answered for %s seconds (server.worker_timeout), and is replaced.",
                    process.pid, self.config.timeout_worker_healthcheck,
                )  # fmt: skip
            self._replace(place, process)

    def _answers(self, process: Process) -> bool:
        """Return whether a worker answers, or has still time to."""
        number, connection = process.pid or 0, process.parent_conn
        try:
            if number not in self._asked:
                self._asked[number] = perf_counter()
                connection.send(b"ping")
            if connection.poll(_GLANCE):
                connection.recv()
                del self._asked[number]
                return True
        except (OSError, EOFError):
            return False
        return perf_counter() - self._asked[number] < self.config.timeout_worker_healthcheck

    def _replace(self, place: int, process: Process) -> None:
        self._asked.pop(process.pid or 0, None)
        process.kill()
        process.join()
        if process.exitcode == STARTUP_FAILURE:
            _log.error("The worker %s cannot start, and no other one could; the service ends. Its log says why.", process.pid)
            self.should_exit.set()
            return
        replacement = Process(self.config, self.sockets)
        replacement.start()
        self.processes[place] = replacement
