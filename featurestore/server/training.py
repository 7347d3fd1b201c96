"""Training frames: ``POST /v1/training``, a spine in and the same rows with features out, streamed both ways.

A spine of moderate size is worked on in memory, as the local call does. A larger one goes to a file as it comes, the frame is
made in files (``sink=``), and the answer is read from there batch by batch: memory stays bounded whatever the size.
"""

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import LimitError, RequestError, UnavailableError
from featurestore.server.access import Resource
from featurestore.server.bodies import ARROW, PARQUET, media_type
from featurestore.server.limits import Limits
from featurestore.server.problems import Problem
from featurestore.server.visit import Gone, Visit

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

T = TypeVar("T")

_TAKEN = (ARROW, PARQUET)
_BATCH = 32_768
_WRITTEN_AT_ONCE = 4 << 20
_PARAMETERS = ("features", "time", "as_known", "spine")
_TRUTHS = {"true": True, "false": False}


class TrainingEndpoint:
    """Makes training frames, so many at once.

    Args:
        store: the store.
        limits: the server's limits.
    """

    def __init__(self, store: "FeatureStore", limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._running = 0

    async def __call__(self, visit: Visit) -> None:
        """Answers one."""
        given = media_type(visit.header(b"content-type"), _TAKEN)
        features, with_spine, options = _parameters(visit)
        visit.check(Resource("features", tuple(features), self._store.settings.project))
        if self._running >= self._limits.training:
            raise UnavailableError(
                f"The server is making {self._running} training frames, and does not make more at once (server_training). "
                "Try again later.",
                5,
            )
        made = _Made(self._store, features, options, with_spine=with_spine)
        self._running += 1
        work: asyncio.Task[None] | None = None
        try:
            spine = await self._spine(visit, made.folder)
            work = asyncio.create_task(asyncio.to_thread(made.make, spine, given))
            await self._finished(visit, work)
            visit.rows = made.rows
            size, parts = made.answer()
            await visit.stream(_parts(parts), ARROW.encode(), size)
        finally:
            # NOTE: a thread cannot be stopped. What it works on, and its place among those at once, are its own until it ends.
            if work is None or work.done():
                self._end(made)
            else:
                work.add_done_callback(lambda done: self._end(made, done))

    def _end(self, made: "_Made", work: "asyncio.Task[None] | None" = None) -> None:
        if work is not None:
            work.exception()  # nobody waits for it any more
        self._running -= 1
        made.close()

    async def _finished(self, visit: Visit, work: "asyncio.Task[None]") -> None:
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
            raise Gone
        else:
            raise LimitError(
                f"The training frame takes longer than {self._limits.training_seconds:g} seconds (server_training_seconds). Ask "
                "for fewer rows or features.",
                "time",
            )

    async def _spine(self, visit: Visit, folder: Callable[[], Path]) -> bytearray | Path:
        """Returns the body: what is in memory, or the file that it went to as it grew large."""
        held = bytearray()
        path: Path | None = None
        try:
            async with asyncio.timeout(self._limits.training_seconds):
                async for chunk in visit.chunks(self._limits.spine):
                    held += chunk
                    if len(held) > (self._limits.memory if path is None else _WRITTEN_AT_ONCE):
                        path = path or folder() / "spine"
                        await asyncio.to_thread(_append, path, held)
                        held = bytearray()
        except TimeoutError:
            raise LimitError(
                f"The spine had not come after {self._limits.training_seconds:g} seconds (server_training_seconds).", "upload"
            ) from None
        if path is None:
            return held
        await asyncio.to_thread(_append, path, held)
        return path


class _Made:
    """One training frame: in memory, or in a folder of its own."""

    def __init__(self, store: "FeatureStore", features: list[str], options: dict[str, Any], *, with_spine: bool) -> None:
        self._store = store
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
        if isinstance(spine, bytearray):
            rows = _read(spine, given)
            frame = self._store.training_frame(rows, self._features, **self._options)
            self._frame = frame.select(frame.columns[self._first(rows.width) :])
            self.rows = frame.height
            return
        file = spine.rename(spine.with_suffix(".parquet")) if given == PARQUET else _as_file(spine)
        lazy = pl.scan_parquet(file, glob=False) if given == PARQUET else pl.scan_ipc(file)
        with _reading(given):
            width = len(lazy.collect_schema())
        self._file = self.folder() / "frame.parquet"
        made = self._store.training_frame(lazy, self._features, sink=self._file, **self._options)
        file.unlink()
        self._columns = made.collect_schema().names()[self._first(width) :]
        self.rows = pq.ParquetFile(self._file).metadata.num_rows

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


async def _parts(batches: Iterator[bytes]) -> AsyncIterator[bytes]:
    while part := await asyncio.to_thread(next, batches, b""):
        yield part


def _stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    pieces = _Pieces()
    with pa.ipc.new_stream(pa.PythonFile(pieces, "w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield pieces.taken()
    yield pieces.taken()


def _size(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Returns how many bytes that will be. An answer whose size is told is not cut into chunks, which would copy it once more."""
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


class _reading:  # noqa: N801 - reads as a function
    """Translates what a body that is not what it says raises."""

    def __init__(self, given: str) -> None:
        self._given = given

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (pl.exceptions.PolarsError, pa.ArrowException, OSError)):
            name = "Arrow IPC stream" if self._given == ARROW else "Parquet file"
            raise RequestError(f"The body is no {name}: {(str(error) or 'it is empty').splitlines()[0]}.") from error


def _read(body: bytearray, given: str) -> pl.DataFrame:
    with _reading(given):
        return pl.read_ipc_stream(io.BytesIO(body)) if given == ARROW else pl.read_parquet(io.BytesIO(body))


def _as_file(stream: Path) -> Path:
    """Returns a stream's batches in a file of Arrow's, which can be read from anywhere; one batch is in memory at a time."""
    path = stream.with_suffix(".arrow")
    with (
        _reading(ARROW),
        pa.OSFile(str(stream)) as given,
        pa.ipc.open_stream(given) as batches,
        pa.OSFile(str(path), "wb") as target,
        pa.ipc.new_file(target, batches.schema) as file,
    ):
        for batch in batches:
            file.write_batch(batch)
    stream.unlink()
    return path


def _append(path: Path, part: bytearray) -> None:
    with path.open("ab") as file:
        file.write(part)


def _parameters(visit: Visit) -> tuple[list[str], bool, dict[str, Any]]:
    query = visit.query()
    for name in query:
        if name not in _PARAMETERS:
            raise Problem(400, "malformed", f"There is no parameter {name!r}; there are {', '.join(_PARAMETERS)}.")
    features = [each.strip() for each in query.get("features", "").split(",") if each.strip()]
    if not features:
        raise Problem(422, "request", "Say what to fetch: ?features=delay_model or ?features=weather.temp,plane.")
    options = {"time": query.get("time", "event_time"), "as_known": _truth(query, "as_known")}
    return features, _truth(query, "spine"), options


def _truth(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "true").lower()
    if text not in _TRUTHS:
        raise Problem(422, "request", f"{name}={text!r} is neither true nor false.")
    return _TRUTHS[text]
