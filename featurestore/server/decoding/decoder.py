"""The decoder program: converts untrusted Arrow and Parquet bodies to plain Arrow, in a process of its own.

It is run as a file by itself, knows nothing of the package, and may die at any time: nobody else is hurt. What is sent is looked
at first, as far as that is cheap: the lengths that an IPC stream's messages declare, the sizes in a Parquet file's footer. Then it
is decoded batch by batch, each checked in full, and written on uncompressed: the server reads only what this process wrote.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

MIB = 1 << 20
_MAPPED = 128 * MIB
"""Up to how many bytes a source is mapped; a larger one is read."""
_LONGEST_NAME = 200
_MOST_MESSAGES = 100_000
_MOST_ROW_GROUPS = 10_000
_METADATA = 16 * MIB
_ROWS_AT_ONCE = 32_768
_WIDTHS = {"BOOLEAN": 0.125, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
_WIDEST, _USUAL = 16, 4
"""The bytes of the widest number; those of a value that a file's worth of rows is counted with at least."""
_EXTENSION = b"ARROW:extension:"
_CANONICAL = ("arrow.fixed_shape_tensor", "arrow.json", "arrow.uuid", "arrow.bool8", "arrow.opaque", "arrow.variable_shape_tensor")


class Refused(Exception):  # noqa: N818 - nothing failed here
    """What was sent is not taken: it is "rows", "decoded" or "wrong", and words say what was found."""

    def __init__(self, kind: str, words: str) -> None:
        self.kind = kind
        super().__init__(words)


class Bounds(NamedTuple):
    """What a body may decode to: how many rows, bytes and columns."""

    rows: int
    decoded: int
    columns: int

    def check_rows(self, rows: int) -> None:
        """Refuse more rows."""
        if rows > self.rows:
            raise Refused("rows", f"{rows:,} rows")

    def check_decoded(self, size: float) -> None:
        """Refuse more bytes."""
        if size > self.decoded:
            raise Refused("decoded", f"{int(size):,} bytes once it is decoded")


# -- looking at it first ---------------------------------------------------------------------------------------------------------


class Table:
    """A table at a place of a flatbuffer, of which any byte may be wrong: what lies outside raises ``struct.error``."""

    def __init__(self, buffer: bytes, place: int) -> None:
        self._buffer = buffer
        self._place = place
        self._fields = place - self._read("<i", place)
        self._size = self._read("<H", self._fields)

    @classmethod
    def root(cls, buffer: bytes) -> "Table":
        """Return the table that a flatbuffer is."""
        return cls(buffer, struct.unpack_from("<I", buffer, 0)[0])

    def _read(self, form: str, place: int) -> int:
        if place < 0:
            raise struct.error("a place before the beginning")
        return int(struct.unpack_from(form, self._buffer, place)[0])

    def _at(self, number: int) -> int:
        """Return where a field is; 0 where it is not."""
        entry = 4 + 2 * number
        offset = self._read("<H", self._fields + entry) if entry < self._size else 0
        return self._place + offset if offset else 0

    def number(self, number: int, form: str = "<q") -> int:
        """Return a field that is a number; 0 where it is not there."""
        place = self._at(number)
        return self._read(form, place) if place else 0

    def table(self, number: int) -> "Table | None":
        """Return a field that is a table."""
        place = self._at(number)
        return Table(self._buffer, place + self._read("<I", place)) if place else None

    def pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield a field that is a list of pairs of numbers."""
        place = self._at(number)
        if place:
            start = place + self._read("<I", place)
            count = self._read("<I", start)
            if start + 4 + 16 * count > len(self._buffer):
                raise struct.error("a list that is longer than the message")
            yield from struct.iter_unpack("<qq", self._buffer[start + 4 : start + 4 + 16 * count])


def check_stream(read: Callable[[int, int], bytes], size: int, bounds: Bounds) -> None:
    """Look at the messages of an IPC stream, without decoding them.

    Args:
        read: returns so many bytes from a place on.
        size: the bytes of the stream.
        bounds: what it may decode to.

    Raises:
        Refused: what it declares is more than is allowed, or cannot be.
    """
    place, rows, decoded = 0, 0, 0
    for _ in range(_MOST_MESSAGES):
        if place + 4 > size:
            return
        length = struct.unpack("<i", read(place, 4))[0]
        place += 4
        if length == -1 and place + 4 <= size:
            length = struct.unpack("<i", read(place, 4))[0]
            place += 4
        if length == 0:
            return
        if not 0 < length <= min(size - place, _METADATA):
            raise Refused("wrong", "a message is longer than the body")
        try:
            message = Table.root(read(place, length))
            kind, body = message.number(1, "<B"), message.number(3)
            if not 0 <= body <= size - place - length:
                raise Refused("wrong", "a message's body is longer than the body")
            header = message.table(2)
            if header is not None and kind == 2:
                header = header.table(1)
            if header is not None and kind in (2, 3):
                batch_rows, declared = _check_batch(header, read, place + length, body, bounds)
                rows += batch_rows if kind == 3 else 0
                decoded += declared
        except struct.error as error:
            raise Refused("wrong", f"a message is damaged ({error})") from error
        bounds.check_rows(rows)
        bounds.check_decoded(decoded)
        place += length + body
    raise Refused("wrong", f"it has more than {_MOST_MESSAGES:,} messages")


def _check_batch(header: Table, read: Callable[[int, int], bytes], start: int, body: int, bounds: Bounds) -> tuple[int, int]:
    """Return how many rows a batch declares, and how many bytes it is once it is decoded."""
    rows = header.number(0)
    most = 8 * bounds.decoded  # bits: of what takes no byte, null, there may be as many
    for length, nulls in header.pairs(1):
        if not (length >= 0 and 0 <= nulls <= length):
            raise Refused("wrong", f"a column declares {length} values, {nulls} of them null")
        if length > most:
            raise Refused("decoded", f"a column of {length:,} values")
    if rows < 0:
        raise Refused("wrong", f"a batch declares {rows} rows")
    compressed = header.table(3) is not None
    decoded = 0
    for offset, length in header.pairs(2):
        if not (offset >= 0 and 0 <= length <= body - offset):
            raise Refused("wrong", f"a buffer of {length:,} bytes at {offset:,} lies outside its message")
        declared = struct.unpack("<q", read(start + offset, 8))[0] if compressed and length >= 8 else length
        if declared < -1:
            raise Refused("wrong", f"a buffer declares {declared} bytes")
        decoded += length if declared == -1 else declared
    bounds.check_decoded(decoded)
    return rows, decoded


def check_parquet(metadata: Any, bounds: Bounds) -> None:
    """Look at a Parquet file's footer. Raises Refused where it declares more than is allowed."""
    bounds.check_rows(metadata.num_rows)
    if metadata.num_row_groups > _MOST_ROW_GROUPS:
        raise Refused("wrong", f"it has {metadata.num_row_groups:,} row groups")
    if metadata.num_columns > 4 * bounds.columns:
        raise Refused("wrong", f"it has {metadata.num_columns:,} columns, and {bounds.columns} are allowed (server.max_columns)")
    declared, values = 0.0, 0.0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.num_values < 0 or chunk.total_uncompressed_size < 0:
                raise Refused("wrong", "its footer declares less than nothing")
            declared += chunk.total_uncompressed_size
            values += chunk.num_values * _WIDTHS.get(chunk.physical_type, 1)
        bounds.check_decoded(max(declared, values))


# -- decoding it -----------------------------------------------------------------------------------------------------------------


def plain_schemas(schema: Any, bounds: Bounds) -> list[Any]:
    """Return a schema without extension types, whose parameters may be anything; with plain texts in dictionaries; in all.

    Raises:
        Refused: it has too many columns, names that are too long, or types that are not taken.
    """
    if len(schema) > bounds.columns:
        raise Refused("wrong", f"it has {len(schema):,} columns, and {bounds.columns} are allowed (server.max_columns)")
    if any(len(name) > _LONGEST_NAME for name in schema.names):
        raise Refused("wrong", f"a column's name has more than {_LONGEST_NAME} characters")
    same = pa.schema([_field(field, 0) for field in schema])
    if _EXTENSION in same.serialize().to_pybytes():
        raise Refused("wrong", "it has an extension type inside another type, which is not taken")
    return [same, *(pa.schema([_field(field, plain) for field in same]) for plain in (1, 2))]


def _field(field: Any, plain: int) -> Any:
    kept = {name: value for name, value in (field.metadata or {}).items() if not name.startswith(_EXTENSION)}
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        raise Refused("wrong", f"the column {field.name!r} is of the extension type {kind.extension_name!r}, which is not taken")
    if any(word in str(kind) for word in ("list_view<", "run_end_encoded<", "union<")):
        raise Refused("wrong", f"the column {field.name!r} is of the type {str(kind)[:100]}, which is not taken")
    if plain and pa.types.is_dictionary(kind):
        value = _field(pa.field(field.name, kind.value_type), 2).type
        kind, kept = (pa.dictionary(kind.index_type, value, kind.ordered), kept) if plain == 1 else (value, {})
    elif pa.types.is_list(kind):
        kind = pa.list_(_field(kind.value_field, plain))
    elif pa.types.is_large_list(kind):
        kind = pa.large_list(_field(kind.value_field, plain))
    elif pa.types.is_fixed_size_list(kind):
        kind = pa.list_(_field(kind.value_field, plain), kind.list_size)
    elif pa.types.is_map(kind):
        kind = pa.map_(_field(kind.key_field, plain), _field(kind.item_field, plain), kind.keys_sorted)
    elif pa.types.is_struct(kind):
        kind = pa.struct([_field(kind.field(number), plain) for number in range(kind.num_fields)])
    elif plain == 2:
        kind = {"string": pa.large_string(), "string_view": pa.large_string(), "binary": pa.large_binary(),
                "binary_view": pa.large_binary()}.get(str(kind), kind)  # fmt: skip
    return pa.field(field.name, kind, field.nullable, kept or None)


def _widened(array: Any, width: int) -> int:
    """Return how many bytes an array is at least once its values are of a wider type: so many each, more in lists."""
    kind = array.type
    if pa.types.is_struct(kind):
        return width * len(array) + sum(_widened(array.field(number), width) for number in range(kind.num_fields))
    size = width * len(array)
    if pa.types.is_fixed_size_list(kind):
        return size + _widened(array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size), _WIDEST)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()  # NOTE: behind a null there may be values as well
        inner = [array.keys, array.items] if pa.types.is_map(kind) else [array.values]
        return size + sum(_widened(values.slice(first, last - first), _WIDEST) for values in inner)
    return size


def _as(batch: Any, schema: Any) -> Any:
    given = zip(batch.columns, schema.types, strict=True)
    return type(batch).from_arrays([column if column.type == kind else column.cast(kind) for column, kind in given], schema=schema)


def decode(source: Any, form: str, bounds: Bounds, target: Any, *, as_file: bool) -> dict[str, Any]:
    """Write what a body holds to a file, as plain Arrow, in which each text stands as often as it is meant.

    Returns how many rows it is and, where texts were of dictionaries, an empty stream that says so.

    Args:
        source: the body, as pyarrow reads it.
        form: "arrow" or "parquet".
        bounds: what it may decode to.
        target: the file.
        as_file: whether as an IPC file, which is read from anywhere, and not as a stream.

    Raises:
        Refused: it is more than is allowed.
        ArrowException: it is not what it says.
    """
    if form == "arrow":
        batches: Any = pa.ipc.open_stream(source)
        given = batches.schema
    else:
        file = pq.ParquetFile(source, pre_buffer=False, buffer_size=MIB)
        check_parquet(file.metadata, bounds)
        given = file.schema_arrow
        batches = file.iter_batches(_ROWS_AT_ONCE, use_threads=False)
    same, between, schema = plain_schemas(given, bounds)
    rows, decoded, least = 0, 0, _USUAL if as_file else _WIDEST
    with (pa.ipc.new_file if as_file else pa.ipc.new_stream)(pa.PythonFile(target, "w"), schema) as writer:
        for batch in batches:
            rows += batch.num_rows
            bounds.check_rows(rows)
            bounds.check_decoded(batch.nbytes)
            batch.validate(full=True)
            bounds.check_decoded(decoded + sum(_widened(column, least) for column in batch.columns))
            batch = _as(batch, between)
            for start in range(0, max(batch.num_rows, 1), _ROWS_AT_ONCE):  # what it grows to is bounded by this process' memory
                converted = _as(batch.slice(start, _ROWS_AT_ONCE), schema)
                decoded += max(converted.nbytes, sum(_widened(column, least) for column in converted.columns))
                bounds.check_decoded(decoded)
                writer.write_batch(converted)
            bounds.check_decoded(target.tell())
    target.flush()
    if "dictionary<" not in str(same.types):
        return {"rows": rows}
    said = pa.BufferOutputStream()
    pa.ipc.new_stream(said, same).close()
    return {"rows": rows, "schema": said.getvalue().to_pybytes().hex()}


def answer(asked: dict[str, Any], source: int, target: int) -> dict[str, Any]:
    """Return what came of one body, of a form, within bounds: it is in a file, and is written to another."""
    bounds = Bounds(asked["rows"], asked["decoded"], asked["columns"])
    size = os.fstat(source).st_size
    try:
        if asked["form"] == "arrow":
            check_stream(lambda place, count: os.pread(source, count, place), size, bounds)
        if 0 < size <= _MAPPED:
            given: Any = pa.BufferReader(pa.py_buffer(mmap.mmap(source, size, prot=mmap.PROT_READ)))
        else:
            given = pa.PythonFile(os.fdopen(os.dup(source), "rb"), "r")
        with os.fdopen(target, "wb", closefd=False) as file:
            return decode(given, asked["form"], bounds, file, as_file=asked["file"])
    except Refused as refused:
        return {"refused": refused.kind, "words": str(refused)}
    except (MemoryError, pa.ArrowMemoryError):
        return {"refused": "memory", "words": ""}
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return {"refused": "memory", "words": ""}
        return {"refused": "wrong", "words": (str(error).strip() or "it is empty").splitlines()[0][:500]}


# -- the process -----------------------------------------------------------------------------------------------------------------


def limit_memory(more: int) -> None:
    """Bound what this process may take beyond what it has taken to start: libraries reserve addresses that they never use."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - nothing of the sort elsewhere
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
    except (OSError, ValueError):
        pass  # not Linux; the server's time-out is left


def main() -> None:
    """Answer questions from a socket until it is closed: arguments are its number, and the memory."""
    number, memory = int(sys.argv[1]), int(sys.argv[2])
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    for name in _CANONICAL:
        with suppress(pa.ArrowException):  # this pyarrow does not know it
            pa.unregister_extension_type(name)
    limit_memory(memory)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=number)
    connection.sendall(b"{}\n")
    while True:
        line, files, _, _ = socket.recv_fds(connection, 65_536, 2)
        if not line:
            return
        asked = json.loads(line)
        signal.alarm(asked["seconds"])  # where the server has died nobody else ends this
        reply = answer(asked, *files)
        signal.alarm(0)
        for file in files:
            os.close(file)
        connection.sendall(json.dumps(reply).encode() + b"\n")
        if reply.get("refused") == "memory":
            return  # what it has taken is not given back to the last byte
        trim()


def trim() -> None:
    """Give what is free back to the system: a helper may wait for its next body for long."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


if __name__ == "__main__":
    main()
