"""The pool of decoder processes: a body that crashes one affects its sender alone.

Each is a process of its own (``decoder.py``) with a limit of memory; one that dies or takes too long is replaced. What it makes
of a body comes back as plain Arrow that it wrote itself. A sender whose bodies end decoders again and again is refused for a while.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, LifoQueue
from time import perf_counter
from typing import Any, NoReturn

import polars as pl

from featurestore.errors import LimitError, RequestError, UnavailableError
from featurestore.server.decoding import decoder as decoding
from featurestore.server.decoding.decoder import Bounds
from featurestore.server.http.content_types import ARROW
from featurestore.server.limits import Limits

_log = logging.getLogger("featurestore.server")

_PROGRAM = "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[3]); runpy.run_path(sys.argv[4], run_name='__main__')"
"""Runs the decoder, which imports pyarrow from where this process does: -I leaves what else would say where."""
_STARTING = 60.0
_STRIKES, _WITHIN = 3, 60.0
_MOST_SENDERS = 4096


class Ended(Exception):  # noqa: N818 - it is told by the words it is given
    """A decoder ended over a body.

    Args:
        number: the signal that ended it; 0 where it was out of memory or time.
        words: how.
    """

    def __init__(self, words: str, number: int = 0) -> None:
        self.number = number
        super().__init__(words)


class Helper:
    """One helper process.

    Args:
        memory: the bytes that it may take beyond what it takes to start.
    """

    def __init__(self, memory: int) -> None:
        self._connection, theirs = socket.socketpair()
        program = str(Path(decoding.__file__).resolve())
        quiet = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, str(theirs.fileno()), str(memory), json.dumps(sys.path), program],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=os.environ | quiet, start_new_session=True,
            )  # fmt: skip
        self.ready = False

    def ask(self, asked: dict[str, Any], files: list[int], seconds: float) -> dict[str, Any]:
        """Return what it answers.

        Raises:
            Ended: it does not.
        """
        if not self.ready:
            self._answer(_STARTING)
            self.ready = True
        try:
            socket.send_fds(self._connection, [json.dumps(asked).encode()], files)
        except OSError as error:
            raise Ended("it had ended before", -1) from error
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        self._connection.settimeout(seconds)
        line = b""
        try:
            while not line.endswith(b"\n"):
                part = self._connection.recv(65_536)
                if not part:
                    break
                line += part
        except TimeoutError:
            raise Ended(f"it was not done within {seconds:g} seconds (server.decoder_timeout)") from None
        except OSError:
            line = b""
        if not line:
            status = self._process.wait(_STARTING)
            number = -status if status < 0 and -status != signal.SIGABRT else 0  # an allocation that fails aborts
            raise Ended("more memory than a body may take (server.decoder_memory_mib)", number)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Strikes:
    """Count whose bodies ended decoders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, deque[float]] = {}

    def count(self, who: str) -> None:
        """Count one."""
        with self._lock:
            if len(self._of) >= _MOST_SENDERS:
                self._of.clear()
            self._of.setdefault(who, deque(maxlen=_STRIKES)).append(perf_counter())

    def check(self, who: str) -> None:
        """Refuse a caller whose bodies ended several decoders within a minute.

        Raises:
            LimitError: they have.
        """
        with self._lock:
            times = list(self._of.get(who, ()))
        out = len(times) == _STRIKES and perf_counter() - times[0] < _WITHIN
        if out:
            raise LimitError(
                f"{_STRIKES} bodies of yours have ended the server's decoder within a minute, so it takes no Arrow and no Parquet "
                "of yours for a minute. JSON is taken. Look at what you send.",
                "decoder",
            )


class Decoders:
    """The helper processes of a server, started as they are needed.

    Args:
        limits: how many there are, and what each may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._strikes = Strikes()
        self._idle: LifoQueue[Helper | None] = LifoQueue()
        for _ in range(limits.decoders):
            self._idle.put(None)
        self._closed = False

    def warm(self) -> None:
        """Start one, so that the first body need not wait for that."""
        with self._helper() as place:
            place[0] = place[0] or Helper(self._limits.decoder)

    def frame(self, body: bytes | bytearray, given: str, bounds: Bounds, who: str) -> pl.DataFrame:
        """Return what a body holds; it blocks.

        Args:
            body: the body.
            given: its type.
            bounds: what it may decode to.
            who: who sent it.

        Raises:
            LimitError: it is more than is allowed; or bodies of the same sender ended decoders again and again.
            RequestError: it is not what it says.
            UnavailableError: all decoders are at work.
        """
        with _memory_file() as source, _memory_file() as target:
            _write(source, body)
            dtypes = self._decode((source, target), given, bounds, who, as_file=False)
            with os.fdopen(os.dup(target), "rb") as file, reading(given):
                file.seek(0)
                frame = pl.read_ipc_stream(file.read())
                return frame.cast({name: dtype for name, dtype in dtypes.items() if frame.schema[name] != dtype})

    def file(self, body: bytes | bytearray | Path, given: str, bounds: Bounds, who: str, path: Path) -> pl.LazyFrame:
        """Write what a body holds to a file of Arrow's, and return what reads it; else like ``frame``."""
        with path.open("wb") as target:
            if isinstance(body, Path):
                with body.open("rb") as source:
                    dtypes = self._decode((source.fileno(), target.fileno()), given, bounds, who, as_file=True)
            else:
                with _memory_file() as number:
                    _write(number, body)
                    dtypes = self._decode((number, target.fileno()), given, bounds, who, as_file=True)
        with reading(given):
            lazy = pl.scan_ipc(path)
            actual = lazy.collect_schema()
            return lazy.cast({name: dtype for name, dtype in dtypes.items() if actual[name] != dtype})

    def close(self) -> None:
        """End those that are idle; one that is at work ends after it."""
        self._closed = True
        with suppress(Empty):
            while True:
                helper = self._idle.get_nowait()
                if helper is not None:
                    helper.close()

    def _decode(self, files: tuple[int, int], given: str, bounds: Bounds, who: str, *, as_file: bool) -> pl.Schema:
        """Have a helper decode a body; return the dtypes of its columns, where some were of dictionaries and are plain texts."""
        self._strikes.check(who)
        seconds = self._limits.decoder_seconds
        asked = bounds._asdict() | {"form": "arrow" if given == ARROW else "parquet", "file": as_file, "seconds": int(seconds) + 5}
        try:
            with self._helper() as place:
                helper = place[0] = place[0] or Helper(self._limits.decoder)
                try:
                    reply = helper.ask(asked, list(files), seconds)
                    if reply.get("refused") == "memory":
                        raise Ended("more memory than a body may take (server.decoder_memory_mib)")
                except Ended:
                    helper.close()
                    place[0] = None
                    raise
        except Ended as ended:
            if ended.number < 0:  # it had died of itself, idle: that is not the sender's fault
                raise UnavailableError("A decoder had ended. Try again.", 1) from ended
            self._strikes.count(who)
            _log.warning("A body of %s ended a decoder: %s.", who, ended)
            if ended.number:
                raise RequestError(
                    f"The body is not a valid {_called(given)}: decoding it ended with signal {ended.number}."
                ) from ended
            raise LimitError(f"Decoding the body takes too much: {ended}. Send it in smaller parts.", "body") from ended
        if "refused" in reply:
            self._refuse(reply["refused"], reply["words"], given, bounds)
        with reading(given):
            return pl.read_ipc_stream(bytes.fromhex(reply["schema"])).schema if "schema" in reply else pl.Schema()

    def _refuse(self, kind: str, words: str, given: str, bounds: Bounds) -> NoReturn:
        if kind == "wrong":
            raise RequestError(f"The body is not an accepted {_called(given)}: {words}.")
        allowed = f"{bounds.rows:,} rows" if kind == "rows" else f"{bounds.decoded:,} bytes"
        raise LimitError(f"The body has {words}, and {allowed} are allowed. Send it in parts.", kind)

    @contextmanager
    def _helper(self) -> Iterator[list[Helper | None]]:
        """Yield a place among the decoders, with the helper in it, which the caller may replace."""
        try:
            place = [self._idle.get(timeout=self._limits.decoder_seconds)]
        except Empty:
            raise UnavailableError("All decoders of the server are at work (server.decoders). Try again later.", 1) from None
        try:
            yield place
        finally:
            if self._closed and place[0] is not None:
                place[0].close()
                place[0] = None
            self._idle.put(place[0])


class reading:  # noqa: N801 - reads as a function
    """Translates what Polars raises, or panics with, where it is given what it cannot read."""

    def __init__(self, given: str) -> None:
        self._given = given

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)):
            problem = (str(error).strip() or "it is empty").splitlines()[0]
            raise RequestError(f"The body is not a valid {_called(self._given)}: {problem}.") from error


def _called(given: str) -> str:
    return "Arrow IPC stream" if given == ARROW else "Parquet file"


@contextmanager
def _memory_file() -> Iterator[int]:
    """Give a file in memory."""
    if sys.platform == "linux":
        number = os.memfd_create("featurestore-body")
        try:
            yield number
        finally:
            os.close(number)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


def _write(number: int, body: bytes | bytearray) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(number, view) :]
