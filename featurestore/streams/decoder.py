"""Decoding stream entries into source rows; an entry that makes no row is returned with the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Annotated, Any

import msgspec
import polars as pl

from featurestore.definitions.stream_source import ENTRY_ID, ENTRY_TIME, StreamSource
from featurestore.dtypes import inner_dtype, python_type
from featurestore.errors import FeatureStoreError, RequestError
from featurestore.instants import INSTANT, parse_times
from featurestore.shortage import shortage_of
from featurestore.streams.base import Entry

_RANGES: dict[type[pl.DataType], Any] = {
    dtype: Annotated[int, msgspec.Meta(ge=-(1 << bits - 1) if signed else 0, le=(1 << bits - signed) - 1 if bits < 64 else None)]
    for signed, bits, dtype in (
        (1, 8, pl.Int8), (1, 16, pl.Int16), (1, 32, pl.Int32), (1, 64, pl.Int64),
        (0, 8, pl.UInt8), (0, 16, pl.UInt16), (0, 32, pl.UInt32), (0, 64, pl.UInt64),
    )
}  # fmt: skip
_NO_NUMBER = Decimal("NaN")
_MOST_SHOWN, _MOST_TOLD = 200, 2_000
"""So many characters of a value, and of an error, are kept with an entry that is set aside."""
_YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
_MICROS = Annotated[int, msgspec.Meta(ge=_YEARS[0], le=_YEARS[1])]


@dataclass(frozen=True)
class Decoded:
    """What became of some entries.

    Args:
        rows: a row for each good entry, with the columns that the stream has (``StreamSource.row_schema``).
        entries: the entries of the rows, in their order.
        faulty: the others, each with the reason.
    """

    rows: pl.DataFrame
    entries: tuple[Entry, ...]
    faulty: tuple[tuple[Entry, str], ...]


class EntryDecoder:
    """Decode the entries of a stream.

    A row is a JSON object with all the columns: times and dates in ISO 8601, or times in microseconds since the epoch; decimals
    as text or numbers; bytes in base64; null where there is no value. Where each field is a column its text is read so too, and
    an empty one is null, but in text.

    Args:
        source: the stream.
    """

    def __init__(self, source: StreamSource) -> None:
        self._columns: dict[str, pl.DataType] = dict(source.columns)
        self._schema = source.row_schema
        self._payload = None if source.payload is None else source.payload.encode()
        self._names = {name.encode(): name for name in self._columns}
        self._texts = frozenset(name for name, dtype in self._columns.items() if isinstance(dtype, pl.String))
        self._own = source.batch is None
        attributes = [f"c{number}" for number in range(len(self._columns))]
        self._struct = msgspec.defstruct(
            "Row",
            [(attribute, _wire_type(dtype) | None) for attribute, dtype in zip(attributes, self._columns.values(), strict=True)],
            rename=dict(zip(attributes, self._columns, strict=True)),
            gc=False,
        )
        self._attributes = dict(zip(self._columns, attributes, strict=True))
        self._json = msgspec.json.Decoder(self._struct)

    def decode(self, entries: Sequence[Entry]) -> Decoded:
        """Return the rows of some entries."""
        read: Callable[[Entry], Any] = self._from_fields if self._payload is None else self._from_json
        faulty: list[tuple[Entry, str]] = []
        good: list[Entry] = []
        decoded: list[Any] = []
        for entry in entries:
            try:
                decoded.append(read(entry))
            except BaseException as error:  # noqa: BLE001 - whatever one entry raises is that entry's fault, and no other's
                faulty.append((entry, f"it holds no row: {reason_of(error)}"))
            else:
                good.append(entry)
        columns: list[pl.Series] = []
        wrong: dict[int, str] = {}
        for name, dtype in self._columns.items():
            attribute = self._attributes[name]
            column, bad = _column(name, [getattr(row, attribute) for row in decoded], dtype)
            columns.append(column)
            wrong.update(bad)
        if self._own:
            columns.append(pl.Series(ENTRY_ID, [entry.id for entry in good], pl.String))
            columns.append(pl.Series(ENTRY_TIME, [entry.time for entry in good], pl.Int64).cast(INSTANT))
        rows = pl.DataFrame(columns, schema=self._schema)
        if wrong:
            faulty += [(good[place], f"it holds no row: {reason}") for place, reason in wrong.items()]
            rows = rows.filter(~pl.int_range(pl.len()).is_in(list(wrong)))
            good = [entry for place, entry in enumerate(good) if place not in wrong]
        return Decoded(rows, tuple(good), tuple(faulty))

    def _from_json(self, entry: Entry) -> Any:
        payload = entry.fields.get(self._payload)  # type: ignore[arg-type]  # it is one, or this is not called
        if payload is None:
            raise RequestError(f"no field {self._payload!r}, only {', '.join(map(repr, entry.fields))}")
        return self._json.decode(payload)

    def _from_fields(self, entry: Entry) -> Any:
        texts = {name: value.decode() for field, value in entry.fields.items() if (name := self._names.get(field)) is not None}
        given = {name: None if not text and name not in self._texts else text for name, text in texts.items()}
        return msgspec.convert(given, self._struct, strict=False)


def _wire_type(dtype: pl.DataType) -> Any:
    """Return the type that msgspec reads of a value: what it checks itself need not be checked again."""
    if isinstance(dtype, pl.Datetime):
        return _MICROS | str
    if isinstance(dtype, pl.Array):
        return Annotated[list[_wire_type(inner_dtype(dtype))], msgspec.Meta(min_length=dtype.size, max_length=dtype.size)]  # type: ignore[misc]  # a value
    if isinstance(dtype, pl.List):
        return list[_wire_type(inner_dtype(dtype)) | None]  # type: ignore[misc]  # a value
    if isinstance(dtype, (pl.Date, pl.Duration, pl.Decimal)):
        return {pl.Date: date, pl.Duration: timedelta, pl.Decimal: Decimal}[type(dtype)]
    return _RANGES.get(type(dtype), python_type(dtype))


def _column(name: str, values: list[Any], dtype: pl.DataType) -> tuple[pl.Series, dict[int, str]]:
    """Return values as a column, and by their places what is wrong with some."""
    wrong: dict[int, str] = {}
    if isinstance(dtype, pl.Decimal):
        values, wrong = _decimals(name, values, dtype)
    try:
        if isinstance(dtype, pl.Datetime):
            return _times(name, values, dtype)
        return pl.Series(name, values, dtype), wrong
    except BaseException as error:  # noqa: BLE001 - it is one value's fault, which is looked for
        reason_of(error)
        column, others = _one_by_one(name, values, dtype)
        return column, wrong | others


def _one_by_one(name: str, values: list[Any], dtype: pl.DataType) -> tuple[pl.Series, dict[int, str]]:
    wrong = {}
    columns = []
    for place, value in enumerate(values):
        try:
            if isinstance(dtype, pl.Datetime):
                column, bad = _times(name, [value], dtype)
                if bad:
                    wrong[place] = bad[0]
            else:
                column = pl.Series(name, [value], dtype)
        except BaseException as error:  # noqa: BLE001 - whatever one value raises is its own fault
            reason_of(error)
            wrong[place] = _no_such_value(value, name, dtype)
            column = pl.Series(name, [None], dtype)
        columns.append(column)
    return pl.concat(columns) if columns else pl.Series(name, [], dtype), wrong


def _decimals(name: str, values: list[Any], dtype: pl.Decimal) -> tuple[list[Any], dict[int, str]]:
    """Return decimals to the column's places, those that it cannot hold as nulls: Polars panics at some of them."""
    places = Decimal(1).scaleb(-(dtype.scale or 0))
    context = Context(prec=dtype.precision or 38, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
    decimals: list[Any] = []
    wrong = {}
    for place, value in enumerate(values):
        try:
            fitted = None if value is None else value.quantize(places, context=context)
        except InvalidOperation:
            fitted = _NO_NUMBER
        if fitted is not None and not fitted.is_finite():
            wrong[place], fitted = _no_such_value(value, name, dtype), None
        decimals.append(fitted)
    return decimals, wrong


def _no_such_value(value: Any, name: str, dtype: pl.DataType) -> str:
    shown = str(value) if isinstance(value, Decimal) else repr(value)
    shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
    return f"{shown} is not a valid {dtype} for the column {name!r}"


def reason_of(error: BaseException) -> str:
    """Return in one line what was raised while rows were worked on.

    Libraries in Rust raise panics, which are not an ``Exception``.

    Raises:
        BaseException: the error itself, if no row is at fault: it asks the process to end, or says what the machine lacks.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)) or shortage_of(error) is not None:
        raise error
    message = str(error).strip()
    if not isinstance(error, (FeatureStoreError, msgspec.MsgspecError)) or not message:
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return message if len(message) <= _MOST_TOLD else f"{message[:_MOST_TOLD]}…"


def _times(name: str, values: list[Any], dtype: pl.Datetime) -> tuple[pl.Series, dict[int, str]]:
    texts = pl.Series(name, [value if isinstance(value, str) else None for value in values], pl.String)
    micros = pl.Series(name, [value if isinstance(value, int) else None for value in values], pl.Int64).cast(INSTANT)
    if texts.null_count() == len(texts):
        return micros.cast(dtype), {}
    numbers = texts.str.contains(r"^-?\d{6,19}$")
    if numbers.any():  # where fields are columns, which are text all of them
        counted = texts.set(~numbers.fill_null(value=False), None).cast(pl.Int64, strict=False)
        counted = counted.set(~counted.is_between(*_YEARS).fill_null(value=False), None).cast(INSTANT)
        micros = micros.zip_with(micros.is_not_null(), counted)
        texts = texts.set(counted.is_not_null(), None)
    parsed = parse_times(texts)
    bad = (parsed.is_null() & texts.is_not_null()).arg_true()
    wrong = {place: f"{texts[place]!r} is not a valid time for the column {name!r}" for place in bad}
    return parsed.zip_with(parsed.is_not_null(), micros).cast(dtype), wrong


def entry_texts(entry: Entry) -> dict[str, str]:
    """Return what an entry holds as text; what is none shows as the escapes of its bytes."""
    return {name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace") for name, value in entry.fields.items()}
