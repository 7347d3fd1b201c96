"""Arguments of online requests: rows from ``KEY=VALUE`` texts and from files, in the types of the join keys."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from featurestore.clock import parse_instant
from featurestore.definitions.reference import parse_references
from featurestore.errors import RequestError, did_you_mean
from featurestore.selection.select import select

if TYPE_CHECKING:
    from featurestore.selection.select import Selection
    from featurestore.store import FeatureStore


def selection_of(store: "FeatureStore", features: Sequence[str]) -> "Selection":
    """Return what some names ask for: the joins, their keys and columns.

    Raises:
        NotFoundError: one of them is not applied.
    """
    return select(store.catalog, parse_references(list(features)))


def parse_pairs(
    pairs: Iterable[str], keys: Mapping[str, "pl.DataType"], fields: Mapping[str, "pl.DataType"], whole: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Return the rows that texts like ``origin=JFK,LGA`` stand for.

    Args:
        pairs: the texts. A list separated by commas makes a row of each of its values; a single value goes into every row;
            an empty one is a null key.
        keys: the keys that are asked for, and their dtypes.
        fields: the fields of requests that are asked for, and their dtypes; which of them must be there is not looked at.
        whole: further texts, whose values are single ones, commas and all.

    Raises:
        RequestError: a key is missing, a key or field is unknown, a value is not of its type, or two lists differ in length.
    """
    columns: dict[str, list[Any]] = {}
    known = {**fields, **keys}
    for pair, is_whole in [*((given_text, False) for given_text in pairs), *((given_text, True) for given_text in whole)]:
        name, _, text = pair.partition("=")
        if name not in known:
            what = "key or request field" if fields else "key"
            raise RequestError(f"{pair!r}: these features have no {what} {name!r}. {did_you_mean(name, known)}")
        columns[name] = [_converted(given_text, name, known[name]) for given_text in ([text] if is_whole else text.split(","))]
    missing = [name for name in keys if name not in columns]
    if missing:
        raise RequestError(
            f"These features are looked up by {', '.join(keys)}. Say {' '.join(f'{name}=…' for name in missing)} too."
        )
    lengths = {name: len(column) for name, column in columns.items() if len(column) > 1}
    if len(set(lengths.values())) > 1:
        shown_lengths = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise RequestError(f"Lists of values must be equally long: {shown_lengths}.")
    rows = max(lengths.values(), default=1)
    return [{name: column[row if len(column) > 1 else 0] for name, column in columns.items()} for row in range(rows)]


def read_rows(path: Path, keys: Mapping[str, "pl.DataType"], fields: Mapping[str, "pl.DataType"]) -> list[dict[str, Any]]:
    """Return the rows in a JSON file: a list of objects, or one object. Columns other than keys are passed on.

    Texts become what JSON lacks: keys of any type, and dates and times among the fields of requests.

    Raises:
        RequestError: it is not there, is not JSON or holds something else, or a key is not of its type.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"The rows in {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}.") from error
    rows = given if isinstance(given, list) else [given]
    if not all(isinstance(row, dict) for row in rows):
        raise RequestError(f'{path} must hold a list of objects, [{{"origin": "JFK"}}].')
    texts = {name: dtype for name, dtype in fields.items() if dtype.is_temporal()} | dict(keys)
    return [{name: _of_json(value, name, texts) for name, value in row.items()} for row in rows]


def read_frame(path: Path) -> "pl.DataFrame":
    """Return the rows in a Parquet, CSV or JSON file, by its extension; ``-`` is JSON lines on standard input.

    Raises:
        RequestError: the file does not exist, has another format, or cannot be read.
    """
    if path.name == "-":
        try:
            return pl.read_ndjson(sys.stdin.buffer.read(), infer_schema_length=None)
        except pl.exceptions.PolarsError as error:
            raise RequestError(f"Standard input is not JSON lines: {str(error).splitlines()[0]}") from error

    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".parquet": pl.read_parquet,
        ".csv": lambda file: pl.read_csv(file, infer_schema=False),  # texts, which take the types of the source's columns
        ".json": lambda file: pl.read_json(file, infer_schema_length=None),
        ".jsonl": lambda file: pl.read_ndjson(file, infer_schema_length=None),
        ".ndjson": lambda file: pl.read_ndjson(file, infer_schema_length=None),
    }
    if path.suffix not in readers:
        raise RequestError(f"{path} is named like no file of rows. It must end in one of {', '.join(readers)}.")
    try:
        return readers[path.suffix](path)
    except OSError as error:
        raise RequestError(f"The rows in {path} cannot be read: {error.strerror or error}.") from error
    except pl.exceptions.PolarsError as error:
        raise RequestError(f"{path} is not a valid {path.suffix} file: {str(error).splitlines()[0]}") from error


def split_features(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that name features, and those that say ``KEY=VALUE``."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]


def _of_json(value: Any, name: str, keys: Mapping[str, "pl.DataType"]) -> Any:
    return _converted(value, name, keys[name]) if isinstance(value, str) and name in keys else value


def _converted(text: str, name: str, dtype: "pl.DataType") -> Any:
    """Return a key's value in the Python type of its dtype."""
    if text == "":
        return None
    kind = str(dtype.base_type())
    try:
        return _CONVERSIONS.get(kind, int)(text)
    except (ValueError, KeyError):
        raise RequestError(f"{name}={text!r}: {name!r} is {dtype}, and that is none.") from None


_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "String": str,
    "Binary": str.encode,
    "Float32": float,
    "Float64": float,
    "Boolean": lambda text: {"true": True, "false": False}[text.lower()],
    "Date": date.fromisoformat,
    "Datetime": parse_instant,
}
