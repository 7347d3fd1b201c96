"""Training frames: ``POST /v1/training``, a spine in and the same rows with features out, streamed both ways.

A spine of moderate size is worked on in memory, as the local call does. A larger one goes to a file as it comes, the frame is
made in files (``sink=``), and the answer is read from there batch by batch: memory stays bounded whatever the size.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from featurestore.clock import parse_instant
from featurestore.errors import FeatureStoreError, LimitError, UnavailableError
from featurestore.server.decoding.decoder import Bounds
from featurestore.server.decoding.pool import reading
from featurestore.server.http.bodies import query_of, stream_body
from featurestore.server.http.content_types import ARROW, PARQUET, body_type
from featurestore.server.http.context import context_of
from featurestore.server.http.memory import clear_frames
from featurestore.server.http.problems import Problem
from featurestore.server.http.routing import ApiRoute, requires
from featurestore.server.http.state import AppState, state_of
from featurestore.server.http.streaming import PartResponse, disconnected
from featurestore.server.openapi.operation import Operation

T = TypeVar("T")

_TAKEN = (ARROW, PARQUET)
_BATCH = 32_768
_WRITTEN_AT_ONCE = 4 << 20
_UPLOADS = 8
"""How many spines may come at once for each frame that may be made."""
_COMES_AT_LEAST = 64 << 10
"""How many bytes of a spine must come within ``server.request_timeout``, if it does not end."""
_MOST_FEATURES, _LONGEST_NAME = 500, 600
_TRUTHS = {"true": True, "false": False}


class TrainingQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of a training frame."""

    features: Annotated[list[str], Meta(description="Services, views and features, separated by commas.", min_length=1)]
    time: Annotated[str, Meta(description="The spine's time column.")] = "event_time"
    as_known: Annotated[bool, Meta(description="Whether a row counts only once it was available.")] = True
    spine: Annotated[bool, Meta(description="Whether the spine's columns are in the answer too.")] = True
    stored_by: Annotated[datetime | None, Meta(description="Only rows count that were stored by this instant.")] = None


@requires("read", "features")
async def training_frame(request: Request) -> Response:
    """Make a training frame of a spine: the body."""
    context, frames = context_of(request), state_of(request).part(_Frames)
    given = body_type(request, _TAKEN)
    query = _query(request)
    context.check("features", tuple(query.features))
    context.personal = frames.is_personal(query.features)
    frame = frames.begin(query, context.sender)
    work: asyncio.Task[None] | None = None
    answer: PartResponse | None = None
    try:
        spine = await frames.upload(request, frame.folder)
        work = frames.make(frame, spine, given)
        await frames.finished(request, work)
        context.rows = frame.rows
        size, parts = frame.answer()
        answer = PartResponse(frames.on_their_way(parts), ARROW, size, partial(frames.end, frame))
        return answer
    finally:
        # NOTE: a thread cannot be stopped. What it works on, and its place among those at once, are its own until it ends.
        if work is None:
            frame.close()
        elif not work.done():
            work.add_done_callback(partial(frames.end, frame))
        elif answer is None:
            frames.end(frame)


class _Frames:
    """The training frames of a server: so many at once, each made in a thread.

    Args:
        state: the store, the server's limits, and the threads to make them in.
    """

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._backend = state.backend
        self._limits = state.limits
        self._pools = state.pools
        self._running = 0
        self._uploads = 0
        self._writing = asyncio.Semaphore(state.limits.training)  # answers need the rest of the threads

    def is_personal(self, features: list[str]) -> bool | None:
        """Tell whether personal information is among features; None where they are not ones, which the frame says."""
        try:
            return self._backend.select(features).is_personal
        except FeatureStoreError:
            return None

    def begin(self, query: TrainingQuery, sender: str) -> "_Frame":
        """Return a frame that is not made yet.

        Raises:
            UnavailableError: as many as may be are being made.
        """
        self._check_places()
        return _Frame(self._state, query, sender)

    def make(self, frame: "_Frame", spine: bytearray | Path, given: str) -> "asyncio.Task[None]":
        """Make a frame, which takes a place until ``end``. Raises UnavailableError."""
        self._check_places()
        self._running += 1
        return asyncio.create_task(self._pools.training.run(partial(frame.make, spine, given)))

    def _check_places(self) -> None:
        if self._running >= self._limits.training:
            raise UnavailableError(
                f"The server is making {self._running} training frames, and does not make more at once "
                "(server.max_concurrent_training). Try again later.",
                5,
            )

    def end(self, frame: "_Frame", work: "asyncio.Task[None] | None" = None) -> None:
        """Give a frame's place back, and delete its files."""
        error = None if work is None or work.cancelled() else work.exception()  # nobody waits for it any more
        if error is not None:
            clear_frames(error)
        self._running -= 1
        frame.close()

    async def upload(self, request: Request, folder: Callable[[], Path]) -> bytearray | Path:
        """Return the spine, which takes no place among the frames while it comes: there is a number of uploads for that.

        Raises:
            UnavailableError: too many spines are coming.
            LimitError: it is too large, or comes too slowly.
        """
        most = _UPLOADS * self._limits.training
        if self._uploads >= most:
            raise UnavailableError(
                f"{most} spines are coming already, and no more may at once (server.max_concurrent_training). Try again later.", 5
            )
        self._uploads += 1
        try:
            return await self._spine(request, folder)
        finally:
            self._uploads -= 1

    async def finished(self, request: Request, work: "asyncio.Task[None]") -> None:
        """Wait for a frame, but no longer than allowed, and not for a client that went away.

        Raises:
            LimitError: it takes too long.
            ClientDisconnect: the client went away.
        """
        gone = asyncio.create_task(disconnected(request.receive))
        try:
            waiting: set[asyncio.Task[Any]] = {work, gone}
            done, _ = await asyncio.wait(waiting, timeout=self._limits.training_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if work in done:
            work.result()
        elif gone in done:
            raise ClientDisconnect
        else:
            raise LimitError(
                f"The training frame takes longer than {self._limits.training_seconds:g} seconds (server.training_timeout). Ask "
                "for fewer rows or features.",
                "time",
            )

    async def _spine(self, request: Request, folder: Callable[[], Path]) -> bytearray | Path:
        """Return the body: what is in memory, or the file that it went to as it grew large."""
        buffer, since = bytearray(), 0
        path: Path | None = None
        try:
            async with (
                asyncio.timeout(self._limits.training_seconds),
                asyncio.timeout(self._limits.seconds) as pace,
                aclosing(stream_body(request, self._limits.spine)) as chunks,
            ):
                async for chunk in chunks:
                    buffer += chunk
                    since += len(chunk)
                    if len(buffer) > (self._limits.memory if path is None else _WRITTEN_AT_ONCE):
                        path = path or folder() / "spine"
                        await self._write(path, buffer)
                        buffer = bytearray()
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
            return buffer
        await self._write(path, buffer)
        return path

    async def _write(self, path: Path, part: bytearray) -> None:
        async with self._writing:
            await self._pools.answers.run(partial(_append, path, part))

    async def on_their_way(self, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the parts of an answer, each made in a thread once it is its turn."""
        while part := await self._pools.answers.run(lambda: next(parts, b"")):
            yield part


class _Frame:
    """One training frame: in memory, or in a folder of its own."""

    def __init__(self, state: AppState, query: TrainingQuery, sender: str) -> None:
        self._backend = state.backend
        self._limits = state.limits
        self._decoders = state.decoders
        self._sender = sender
        self._features = query.features
        self._options = {"time": query.time, "as_known": query.as_known, "stored_by": query.stored_by}
        self._with_spine = query.spine
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._frame: pl.DataFrame | None = None
        self._file: Path | None = None
        self._columns: list[str] = []
        self.rows = 0

    def folder(self) -> Path:
        """Return the folder, made at the first call."""
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="featurestore-training-")
        return Path(self._folder.name)

    def make(self, spine: bytearray | Path, given: str) -> None:
        """Make the frame. Raises as ``FeatureStore.training_frame`` does."""
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
        joined = self._backend.training_frame(lazy, self._features, sink=self._file, **self._options)
        file.unlink()
        self._columns = joined.collect_schema().names()[self._first(width) :]
        self.rows = pq.ParquetFile(self._file).metadata.num_rows

    def _decoded(self, spine: bytearray, given: str) -> pl.DataFrame | None:
        """Return a spine in memory; None where that is too small for what it decodes to."""
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
        """Return the frame as an Arrow IPC stream: its size if that is known, and its parts."""
        if self._frame is not None:
            table = self._frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            self._frame = None
            batches = table.to_batches(max_chunksize=_BATCH)
            return _size(table.schema, batches), _stream(table.schema, batches)
        if self._file is None:
            raise RuntimeError("The frame is answered before it is made.")
        file = pq.ParquetFile(self._file)
        schema = pa.schema([file.schema_arrow.field(name) for name in self._columns])
        return None, _stream(schema, file.iter_batches(_BATCH, columns=self._columns))

    def _first(self, width: int) -> int:
        """Return which column of the frame, whose first are the spine's, is the first of the answer."""
        return 0 if self._with_spine else width

    def close(self) -> None:
        """Delete what is in files."""
        if self._folder is not None:
            self._folder.cleanup()


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
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _append(path: Path, part: bytearray) -> None:
    with path.open("ab") as file:
        file.write(part)


def _query(request: Request) -> TrainingQuery:
    query = query_of(request)
    for name in query:
        if name not in TrainingQuery.__struct_fields__:
            known = ", ".join(TrainingQuery.__struct_fields__)
            raise Problem(400, "malformed", f"There is no parameter {name!r}; there are {known}.")
    features = [name.strip() for name in query.get("features", "").split(",") if name.strip()][: _MOST_FEATURES + 1]
    time = query.get("time", "event_time")
    if len(features) > _MOST_FEATURES or len(max([*features, time], key=len)) > _LONGEST_NAME:
        raise Problem(422, "request", f"Ask for {_MOST_FEATURES} features at most, by names of {_LONGEST_NAME} characters at most.")
    if not features:
        raise Problem(422, "request", "Say what to fetch: ?features=delay_model or ?features=weather.temp,plane.")
    text = query.get("stored_by", "")[:_LONGEST_NAME]
    stored_by = parse_instant(text) if text else None
    return TrainingQuery(features, time, _truth(query, "as_known"), _truth(query, "spine"), stored_by)


def _truth(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "true").lower()
    if text not in _TRUTHS:
        raise Problem(422, "request", f"{name}={text!r} is neither true nor false.")
    return _TRUTHS[text]


routes = [
    ApiRoute(
        "/v1/training",
        training_frame,
        method="POST",
        operation=Operation(
            id="fetchTrainingFrame",
            summary="Fetch a training frame",
            tag="features",
            bodies={ARROW: bytes, PARQUET: bytes},
            answers={ARROW: bytes},
            description="The spine's rows with the features after them, an Arrow IPC stream.",
            query=TrainingQuery,
            names={"features": lambda visible: sorted({*visible.read, *visible.features})},
        ),
        timed=False,
    )
]
