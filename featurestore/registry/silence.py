"""Connections to PostgreSQL that do not wait for ever."""

from collections.abc import Generator
from time import perf_counter
from typing import Any, TypeVar

import psycopg

ResultT = TypeVar("ResultT")


class PatientConnection(psycopg.Connection[Any]):
    """A connection on which an answer that does not come within ``silent_seconds`` is an error, and the connection is closed."""

    silent_seconds = 20.0

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Waits for what a generator of psycopg's waits for, and not for longer.

        Raises:
            psycopg.OperationalError: nothing came.
        """
        try:
            return super().wait(_within(gen, perf_counter() + self.silent_seconds), *args, **kwargs)
        except _SilentError as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server has not answered for {self.silent_seconds:g} s") from error


class _SilentError(Exception):
    """Nothing came in time."""


def _within(waiting: Generator[Any, Any, ResultT], until: float) -> Generator[Any, Any, ResultT]:
    """Yields what a generator waits for; raises once it waits for longer than that."""
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if not ready and perf_counter() > until:
                raise _SilentError
            wanted = waiting.send(ready)
    except StopIteration as done:
        result: ResultT = done.value
        return result
