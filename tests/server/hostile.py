"""Hostile bodies of every kind, each with what it is sent as: what they have in common is that somebody may send them."""

import io
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

JSON = "application/json"
MSGPACK = "application/msgpack"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
MIB = 1 << 20
PLAIN = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


def stream(table: Any, **options: Any) -> bytes:
    """An IPC stream of a table or frame."""
    table = table if isinstance(table, pa.Table) else table.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: Any, **options: Any) -> bytes:
    """A Parquet file of a table."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def sound() -> bytes:
    """A spine, and with more columns rows of the source, as an IPC stream."""
    return stream(
        pl.DataFrame({"origin": ["JFK", "LGA"], "event_time": [0, 1]}).with_columns(
            pl.col("event_time").cast(pl.Datetime("us", "UTC"))
        )
    )


def lying(body: bytes) -> Iterator[bytes]:
    """The stream with each of its 64-bit numbers in turn made very large, or negative."""
    for place in range(8, len(body) - 8, 8):
        for value in (1 << 50, (1 << 63) - 1, -1, 1 << 31):
            yield body[:place] + struct.pack("<q", value) + body[place + 8 :]


def mutated(body: bytes, number: int, seed: int) -> Iterator[bytes]:
    """The stream with some of its bytes changed."""
    random = Random(seed)
    for _ in range(number):
        changed = bytearray(body)
        for _ in range(random.randint(1, 8)):
            changed[random.randrange(len(changed))] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
        yield bytes(changed)


def bomb() -> bytes:
    """One value of very many bytes, compressed."""
    return stream(pa.table({"origin": pa.array([bytes(300 * MIB)], pa.large_binary())}), compression="zstd")


def many_batches() -> bytes:
    """Forty batches of 32 MiB each, compressed."""
    batch = pa.record_batch({"origin": pa.array([bytes(32 * MIB)], pa.large_binary())})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for _ in range(40):
            writer.write_batch(batch)
    return sink.getvalue()


def empty_batches() -> bytes:
    """Very many batches without a row."""
    batch = pa.record_batch({"origin": pa.array([], pa.string())})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(100_001):
            writer.write_batch(batch)
    return sink.getvalue()


def tensor() -> bytes:
    """An extension type of an absurd shape."""
    storage = pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))
    metadata = {"ARROW:extension:name": "arrow.fixed_shape_tensor", "ARROW:extension:metadata": '{"shape":[999999999999]}'}
    schema = pa.schema([pa.field("origin", pa.string()), pa.field("t", storage.type, metadata=metadata)])
    return stream(pa.Table.from_arrays([pa.array(["JFK"]), storage], schema=schema))


def long_text() -> bytes:
    """A Parquet file with one text of very many bytes."""
    return parquet(pa.table({"origin": pa.array([bytes(300 * MIB)], pa.large_binary())}), **PLAIN)


def constant_rows() -> bytes:
    """A Parquet file of very many rows that are all the same."""
    return parquet(pa.table({"origin": pa.repeat(pa.scalar(1, pa.int8()), 20_000_000)}), **PLAIN)


def long_list() -> bytes:
    """A Parquet file with one list of very many elements."""
    values = pa.repeat(pa.scalar(0, pa.int64()), 40_000_000)
    return parquet(pa.table({"origin": pa.LargeListArray.from_arrays([0, 40_000_000], values)}), **PLAIN)


def wide() -> bytes:
    """Very many columns."""
    return stream(pa.table({f"c{number}": [1] for number in range(5000)}))


def long_name() -> bytes:
    """A column of a very long name."""
    return stream(pa.table({"x" * 8_000_000: [1]}))


def nested() -> bytes:
    """A column of lists in lists."""
    kind: pa.DataType = pa.int8()
    for _ in range(60):
        kind = pa.list_(kind)
    return stream(pa.table({"origin": pa.array([None], kind)}))


def shared(kind: str, rows: int = 6000) -> bytes:
    """Very many times the same text of 1 MiB, which is there but once."""
    text = b"x" * MIB
    if kind == "dictionary":
        made: Any = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text.decode()]))
    else:
        view = struct.pack("<i4sii", MIB, b"xxxx", 0, 0)
        dtype = pa.string_view() if kind == "text" else pa.binary_view()
        made = pa.Array.from_buffers(dtype, rows, [None, pa.py_buffer(view * rows), pa.py_buffer(text)])
    return in_columns(made)


def constant(kind: pa.DataType, elements: int = 1 << 30) -> pa.Array:
    """A list of very many elements, all zeros or nothing."""
    width = 0 if pa.types.is_null(kind) else kind.bit_width
    buffers = [None] if width == 0 else [None, pa.py_buffer(bytes(elements * width // 8))]
    return pa.LargeListArray.from_arrays(pa.array([0, elements], pa.int64()), pa.Array.from_buffers(kind, elements, buffers))


def in_columns(array: Any) -> bytes:
    """A spine with one more column, as a compressed stream."""
    rows = len(array)
    batch = pa.record_batch(
        [pa.array(["JFK"] * rows), pa.array([0] * rows, pa.timestamp("us", "UTC")), array], ["origin", "event_time", "more"]
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def wrapped(array: pa.Array) -> pa.Array:
    """A list of an array's values, in a struct."""
    return pa.StructArray.from_arrays([pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), array)], ["inner"])


WIDENED: dict[str, Callable[[], bytes]] = {
    "views of a text": lambda: shared("text"),
    "views of bytes": lambda: shared("bytes"),
    "a dictionary of a long text": lambda: shared("dictionary"),
    "nothing": lambda: in_columns(constant(pa.null())),
    "truths": lambda: in_columns(constant(pa.bool_(), 1 << 28)),
    "small numbers": lambda: in_columns(constant(pa.int8(), 1 << 27)),
    "nothing in a struct": lambda: in_columns(wrapped(constant(pa.null()))),
    "lists of fixed size": lambda: in_columns(pa.FixedSizeListArray.from_arrays(pa.nulls(1 << 28), 1 << 28)),
    "nothing behind a null": lambda: in_columns(
        pa.ListArray.from_arrays(pa.array([0, 1 << 28], pa.int32()), pa.nulls(1 << 28), mask=pa.array([True]))
    ),
}
"""Small streams whose values are many times as large once they are written plainly, or made of another type."""


FRAMES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nothing": (ARROW, bytes),
    "zeros": (ARROW, lambda: bytes(4096)),
    "ones": (ARROW, lambda: b"\xff" * 4096),
    "half a stream": (ARROW, lambda: sound()[:300]),
    "an IPC bomb": (ARROW, bomb),
    "forty batches": (ARROW, many_batches),
    "empty batches": (ARROW, empty_batches),
    "a tensor": (ARROW, tensor),
    "very many columns": (ARROW, wide),
    "a long name": (ARROW, long_name),
    "nested lists": (ARROW, nested),
    "a Parquet file that is none": (PARQUET, lambda: b"PAR1" * 100),
    "a long text": (PARQUET, long_text),
    "constant rows": (PARQUET, constant_rows),
    "a long list": (PARQUET, long_list),
}
"""Bodies of Arrow and Parquet, each made only when it is needed."""


def _question(rows: bytes) -> bytes:
    return b'{"features": "weather.temp", "rows": ' + rows + b"}"


TEXTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "deep lists": (JSON, lambda: _question(b'[{"origin": ' + b"[" * 900 + b"]" * 900 + b"}]")),
    "deeper lists": (JSON, lambda: _question(b'[{"origin": ' + b"[" * 500_000 + b"]" * 500_000 + b"}]")),
    "deep objects": (JSON, lambda: _question(b'[{"origin": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]")),
    "empty lists": (JSON, lambda: _question(b'{"origin": [' + b"[]," * 3_000_000 + b"[]]}")),
    "empty objects": (JSON, lambda: _question(b"[" + b"{}," * 3_000_000 + b"{}]")),
    "very many rows": (JSON, lambda: _question(b'{"origin": [' + b'"x",' * 900_000 + b'"x"]}')),
    "very many names": (JSON, lambda: _question(b"[{" + b",".join(b'"n%d":1' % number for number in range(600_000)) + b"}]")),
    "very many names and objects": (
        JSON,
        lambda: _question(b"[{" + b",".join(b'"n%d" :%s' % (n, b"{}" if n % 400 == 0 else b"1") for n in range(300_000)) + b"}]"),
    ),
    "very many names in a column": (
        JSON, lambda: _question(b'{"origin": [{' + b",".join(b'"n%d": 1' % number for number in range(300_000)) + b"}]}"),
    ),
    "very many names of MessagePack": (
        MSGPACK,
        lambda: b"\x82\xa8features\xacweather.temp\xa4rows\x91\xdf" + (100_000).to_bytes(4, "big")
        + b"".join(b"\xa6%06d\x01" % number for number in range(100_000)),
    ),
    "empty lists of MessagePack in little": (
        MSGPACK,
        lambda: b"\x82\xa8features\xacweather.temp\xa4rows\x81\xa6origin\xdd" + (900_000).to_bytes(4, "big") + b"\x90" * 900_000,
    ),
    "a long name": (JSON, lambda: _question(b'[{"' + b"x" * 8_000_000 + b'": 1}]')),
    "a name that is asked for": (JSON, lambda: b'{"features": "' + b"w" * 8_000_000 + b'", "rows": [{"origin": "x"}]}'),
    "very many that are asked for": (
        JSON, lambda: b'{"features": [' + b",".join(b'"weather.t%d"' % number for number in range(400_000)) + b'], "rows": []}',
    ),
    "the same asked for": (JSON, lambda: b'{"features": [' + b",".join([b'"weather.temp"'] * 400_000) + b'], "rows": []}'),
    "names like those there are": (
        JSON, lambda: _question(b"[{" + b",".join(b'"origi%d":1' % number for number in range(490)) + b"}]"),
    ),
    "a long number": (JSON, lambda: _question(b'[{"origin": ' + b"9" * 8_000_000 + b"}]")),
    "a long text": (JSON, lambda: _question(b'[{"origin": "' + b"x" * 8_000_000 + b'"}]')),
    "empty lists of MessagePack": (
        MSGPACK,
        lambda: b"\x82\xa8features\xacweather.temp\xa4rows\x81\xa6origin\xdd" + (10**7).to_bytes(4, "big") + b"\x90" * 10**7,
    ),
    "deep lists of MessagePack": (
        MSGPACK, lambda: b"\x82\xa8features\xacweather.temp\xa4rows\x91\x81\xa6origin" + b"\x91" * 900 + b"\x01",
    ),
    "a long list of MessagePack that is none": (MSGPACK, lambda: b"\x81\xa4rows\xdd\xff\xff\xff\xff"),
    "nothing": (JSON, bytes),
    "a number": (MSGPACK, lambda: msgspec.msgpack.encode(7)),
}  # fmt: skip
"""Bodies of JSON and MessagePack: look-ups, and with another name in them pushes."""


def pushed(body: bytes) -> bytes:
    """A look-up as a push: the same rows."""
    start = body.find(b'"rows"')
    if start >= 0:
        return b"{" + body[start:]
    return body.replace(b"\x82\xa8features\xacweather.temp", b"\x81", 1)
