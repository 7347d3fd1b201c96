"""Training frames: ``POST /v1/training``, a spine in and the same rows with features out, streamed both ways.

A spine of moderate size is worked on in memory, as the local call does. A larger one goes to a file as it comes, the frame is
made in files (``sink=``), and the answer is read from there batch by batch: memory stays bounded whatever the size.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import FeatureStoreError, LimitError, UnavailableError
from featurestore.server.decoding.decoder import Bounds
from featurestore.server.decoding.pool import reading
from featurestore.server.http.content_types import ARROW, PARQUET, media_type
from featurestore.server.http.context import ClientDisconnected, RequestContext
from featurestore.server.http.memory import clear_frames
from featurestore.server.http.pools import Pool
from featurestore.server.http.problems import Problem
from featurestore.server.http.routing import AppState
from featurestore.server.security.guard import Resource

if TYPE_CHECKING:
    from featurestore.server.backend import Backend

T = TypeVar("T")

_TAKEN = (ARROW, PARQUET)
_BATCH = 32_768
_WRITTEN_AT_ONCE = 4 << 20
_UPLOADS = 8
"""How many spines may come at once for each frame that may be made."""
_COMES_AT_LEAST = 64 << 10
"""How many bytes of a spine must come within ``server.request_timeout``, if it does not end."""
_PARAMETERS = ("features", "time", "as_known", "spine")
_MOST_FEATURES, _LONGEST_NAME = 500, 600
_TRUTHS = {"true": True, "false": False}


class TrainingEndpoint:
    """Makes training frames, so many at once.

    Args:
        parts: the store, the server's limits, and the threads to make them in.
    """

    def __init__(self, parts: AppState) -> None:
        self._parts = parts
        self._backend = parts.backend
        self._limits = parts.limits
        self._pools = parts.pools
        self._running = 0
        self._uploads = 0
        self._writing = asyncio.Semaphore(parts.limits.training)  # answers need the rest of the threads

    async def __call__(self, visit: RequestContext) -> None:
        """Answers one."""
        given = media_type(visit.header(b"content-type"), _TAKEN)
        features, with_spine, options = _parameters(visit)
        visit.check(Resource("features", tuple(features), self._backend.settings.project))
        visit.personal = _is_personal(self._backend, features)
        self._check_places()
        made = _Made(self._parts, features, options, visit.sender, with_spine=with_spine)
        work: asyncio.Task[None] | None = None
        try:
            spine = await self._upload(visit, made.folder)
            self._check_places()
            self._running += 1
            work = asyncio.create_task(self._pools.training.run(partial(made.make, spine, given)))
            await self._finished(visit, work)
            visit.rows = made.rows
            size, parts = made.answer()
            await visit.stream(_parts(parts, self._pools.answers), ARROW.encode(), size)
        finally:
            # NOTE: a thread cannot be stopped. What it works on, and its place among those at once, are its own until it ends.
            if work is None:
                made.close()
            elif work.done():
                self._end(made)
            else:
                work.add_done_callback(lambda done: self._end(made, done))

    def _check_places(self) -> None:
        if self._running >= self._limits.training:
            raise UnavailableError(
                f"The server is making {self._running} training frames, and does not make more at once "
                "(server.max_concurrent_training). Try again later.",
                5,
            )

    def _end(self, made: "_Made", work: "asyncio.Task[None] | None" = None) -> None:
        error = None if work is None or work.cancelled() else work.exception()  # nobody waits for it any more
        if error is not None:
            clear_frames(error)
        self._running -= 1
        made.close()

    async def _upload(self, visit: RequestContext, folder: Callable[[], Path]) -> bytearray | Path:
        """Returns the spine, which takes no place among the frames while it comes: there is a number of uploads for that."""
        most = _UPLOADS * self._limits.training
        if self._uploads >= most:
            raise UnavailableError(
                f"{most} spines are coming already, and no more may at once (server.max_concurrent_training). Try again later.", 5
            )
        self._uploads += 1
        try:
            return await self._spine(visit, folder)
        finally:
            self._uploads -= 1

    async def _finished(self, visit: RequestContext, work: "asyncio.Task[None]") -> None:
        """Waits for the frame, but no longer than allowed, and not for a client that went away."""
        gone = asyncio.create_task(visit.gone())
        try:
            waiting: set[asyncio.Task[Any]] = {work, gone}
            done, _ = await asyncio.wait(waiting, timeout=self._limits.training_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if work in done:
            work.result()
        elif gone in done:
            raise ClientDisconnected
        else:
            raise LimitError(
                f"The training frame takes longer than {self._limits.training_seconds:g} seconds (server.training_timeout). Ask "
                "for fewer rows or features.",
                "time",
            )

    async def _spine(self, visit: RequestContext, folder: Callable[[], Path]) -> bytearray | Path:
        """Returns the body: what is in memory, or the file that it went to as it grew large."""
        held, since = bytearray(), 0
        path: Path | None = None
        try:
            async with asyncio.timeout(self._limits.training_seconds), asyncio.timeout(self._limits.seconds) as pace:
                async for chunk in visit.chunks(self._limits.spine):
                    held += chunk
                    since += len(chunk)
                    if len(held) > (self._limits.memory if path is None else _WRITTEN_AT_ONCE):
                        path = path or folder() / "spine"
                        await self._write(path, held)
                        held = bytearray()
                    if since >= _COMES_AT_LEAST:
                        since = 0
                        pace.reschedule(asyncio.get_running_loop().time() + self._limits.seconds)
        except TimeoutError:
            raise LimitError(
                f"The spine comes too slowly: less than {_COMES_AT_LEAST:,} bytes came in {self._limits.seconds:g} seconds "
                f"(server.request_timeout), or not all of it in {self._limits.training_seconds:g} (server.training_timeout).",
                "upload",
            ) from None
        if path is None:
            return held
        await self._write(path, held)
        return path

    async def _write(self, path: Path, part: bytearray) -> None:
        async with self._writing:
            await self._pools.answers.run(partial(_append, path, part))


class _Made:
    """One training frame: in memory, or in a folder of its own."""

    def __init__(self, parts: AppState, features: list[str], options: dict[str, Any], sender: str, *, with_spine: bool) -> None:
        self._backend = parts.backend
        self._limits = parts.limits
        self._decoders = parts.decoders
        self._sender = sender
        self._features = features
        self._options = options
        self._with_spine = with_spine
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._frame: pl.DataFrame | None = None
        self._file: Path | None = None
        self._columns: list[str] = []
        self.rows = 0

    def folder(self) -> Path:
        """Returns the folder, made at the first call."""
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="featurestore-training-")
        return Path(self._folder.name)

    def make(self, spine: bytearray | Path, given: str) -> None:
        """Makes the frame. Raises as ``FeatureStore.training_frame`` does."""
        rows = self._decoded(spine, given) if isinstance(spine, bytearray) else None
        if rows is not None:
            frame = self._backend.training_frame(rows, self._features, **self._options)
            self._frame = frame.select(frame.columns[self._first(rows.width) :])
            self.rows = frame.height
            return
        file = self.folder() / "spine.arrow"
        lazy = self._decoders.file(spine, given, self._bounds(self._limits.spine_decoded), self._sender, file)
        if isinstance(spine, Path):
            spine.unlink()
        with reading(given):
            width = len(lazy.collect_schema())
        self._file = self.folder() / "frame.parquet"
        made = self._backend.training_frame(lazy, self._features, sink=self._file, **self._options)
        file.unlink()
        self._columns = made.collect_schema().names()[self._first(width) :]
        self.rows = pq.ParquetFile(self._file).metadata.num_rows

    def _decoded(self, spine: bytearray, given: str) -> pl.DataFrame | None:
        """Returns a spine in memory; None where that is too small for what it decodes to."""
        bounds = self._bounds(min(self._limits.decoded, self._limits.spine_decoded))
        try:
            return self._decoders.frame(spine, given, bounds, self._sender)
        except LimitError as error:
            if error.limit != "decoded" or self._limits.spine_decoded <= self._limits.decoded:
                raise
            return None

    def _bounds(self, decoded: int) -> Bounds:
        return Bounds(self._limits.spine_rows, decoded, self._limits.columns)

    def answer(self) -> tuple[int | None, Iterator[bytes]]:
        """Returns the frame as an Arrow IPC stream: its size if that is known, and its parts."""
        if self._frame is not None:
            table = self._frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            self._frame = None
            batches = table.to_batches(max_chunksize=_BATCH)
            return _size(table.schema, batches), _stream(table.schema, batches)
        assert self._file is not None, "the frame is made"
        file = pq.ParquetFile(self._file)
        schema = pa.schema([file.schema_arrow.field(name) for name in self._columns])
        return None, _stream(schema, file.iter_batches(_BATCH, columns=self._columns))

    def _first(self, width: int) -> int:
        """Returns which column of the frame, whose first are the spine's, is the first of the answer."""
        return 0 if self._with_spine else width

    def close(self) -> None:
        """Deletes what is in files."""
        if self._folder is not None:
            self._folder.cleanup()


async def _parts(batches: Iterator[bytes], pool: Pool) -> AsyncIterator[bytes]:
    while part := await pool.run(lambda: next(batches, b"")):
        yield part


def _stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    pieces = _Pieces()
    with pa.ipc.new_stream(pa.PythonFile(pieces, "w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield pieces.taken()
    yield pieces.taken()


def _size(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Return the answer's size in bytes. An answer of known size is not cut into chunks, which would copy it once more."""
    counted = pa.MockOutputStream()
    with pa.ipc.new_stream(counted, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return int(counted.size())


class _Pieces:
    """A file that keeps what is written to it as it is: Arrow hands on the columns' own buffers, which are copied but once."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[Any] = []

    def write(self, piece: Any) -> int:
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def taken(self) -> bytes:
        """Returns what was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _append(path: Path, part: bytearray) -> None:
    with path.open("ab") as file:
        file.write(part)


def _parameters(visit: RequestContext) -> tuple[list[str], bool, dict[str, Any]]:
    query = visit.query()
    for name in query:
        if name not in _PARAMETERS:
            raise Problem(400, "malformed", f"There is no parameter {name!r}; there are {', '.join(_PARAMETERS)}.")
    features = [each.strip() for each in query.get("features", "").split(",") if each.strip()][: _MOST_FEATURES + 1]
    if len(features) > _MOST_FEATURES or len(max([*features, query.get("time", "")], key=len)) > _LONGEST_NAME:
        raise Problem(422, "request", f"Ask for {_MOST_FEATURES} features at most, by names of {_LONGEST_NAME} characters at most.")
    if not features:
        raise Problem(422, "request", "Say what to fetch: ?features=delay_model or ?features=weather.temp,plane.")
    options = {"time": query.get("time", "event_time"), "as_known": _truth(query, "as_known")}
    return features, _truth(query, "spine"), options


def _truth(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "true").lower()
    if text not in _TRUTHS:
        raise Problem(422, "request", f"{name}={text!r} is neither true nor false.")
    return _TRUTHS[text]


def _is_personal(backend: "Backend", features: list[str]) -> bool | None:
    """Tells whether personal information is among features; None where they are not ones, which the frame says."""
    try:
        return backend.select(features).is_personal
    except FeatureStoreError:
        return None
