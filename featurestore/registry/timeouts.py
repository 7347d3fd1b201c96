"""Timeouts of PostgreSQL connections: no call waits for ever."""

from collections.abc import Generator, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

import psycopg

ResultT = TypeVar("ResultT")

_IMPATIENT_SECONDS = 2


class PatientConnection(psycopg.Connection[Any]):
    """A connection on which an answer that does not come within ``silent_seconds`` is an error, and the connection is closed."""

    silent_seconds = 20.0
    connector: "Connector | None" = None

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for what a generator of psycopg's waits for, and not for longer.

        Raises:
            psycopg.OperationalError: nothing came.
        """
        try:
            return super().wait(_within(gen, perf_counter() + self.silent_seconds), *args, **kwargs)
        except _SilentError as error:
            self.pgconn.finish()
            if self.connector is not None:
                self.connector.silent = True
            raise psycopg.OperationalError(f"the server has not answered for {self.silent_seconds:g} s") from error


class Connector:
    """Connect to one server. While it is silent, callers fail soon: each would otherwise wait as long as the first did."""

    def __init__(self) -> None:
        self.silent = False
        """Whether the server did not answer when it was last asked."""

    def connect(self, silent_seconds: float, arguments: Sequence[Any], options: Mapping[str, Any]) -> PatientConnection:
        """Return a new connection.

        Args:
            silent_seconds: how long an answer may take.
            arguments: as ``psycopg.connect`` takes them.
            options: likewise.

        Raises:
            psycopg.OperationalError: the server cannot be reached.
        """
        patience = {"connect_timeout": _IMPATIENT_SECONDS} if self.silent else {}
        try:
            connection = PatientConnection.connect(*arguments, **{**options, **patience})
        except psycopg.OperationalError:
            self.silent = True
            raise
        self.silent = False
        connection.silent_seconds = silent_seconds
        connection.connector = self
        return connection


class _SilentError(Exception):
    """Nothing came in time."""


def _within(waiting: Generator[Any, Any, ResultT], until: float) -> Generator[Any, Any, ResultT]:
    """Yield what a generator waits for; raise once it waits for longer than that."""
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
