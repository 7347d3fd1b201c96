"""Spines: the user's rows in any supported form, split into buckets for the engine."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.errors import RequestError, with_article
from featurestore.given_paths import local_path
from featurestore.object_listing import Listing, ObjectListing
from featurestore.object_storage import is_object_address
from featurestore.offline.folder import Address
from featurestore.offline.scan import scan_files
from featurestore.rows.transform import fitted
from featurestore.shown_errors import quotes_store, shown
from featurestore.zones import frame_of

SQLRunner = Callable[[str], pl.DataFrame]

_GAP = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*"
_QUERY = re.compile(rf"{_GAP}(?:select|with|from)(?:\s+\S|/\*|--)", re.IGNORECASE | re.DOTALL)
"""A SELECT, behind comments and parentheses; a path may begin with the same letters, but not with the word."""
# What Polars and pyarrow raise for values that make no column; pyarrow's own errors are of these Python ones.
# A number that Polars cannot hold is a RuntimeError of its bindings, a decimal that is none a panic, which is no Exception.
_UNREADABLE = (
    pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, ArithmeticError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class FramePart:
    """A bucket of the spine in memory."""

    frame: pl.DataFrame

    def read(self) -> pl.DataFrame:
        """Return the bucket's rows."""
        return self.frame


def read_spine(
    given: Any, root: Path, sql: SQLRunner, storage_options: Mapping[str, str] | None = None
) -> tuple[pl.DataFrame | pl.LazyFrame, list[Address]]:
    """Return a spine as a Polars frame, lazy where it need not be in memory, and the Parquet files in which its rows lie.

    There are files where the spine is given as a path that names one, as a folder that has nothing else, or in object storage as a
    glob; in the order of the rows. There are none where it has to be read as a whole.

    Args:
        given: a Polars frame, eager or lazy; pandas, Arrow, or anything else that speaks Arrow; a mapping or list of rows;
            the path of a Parquet file, of a folder of them or a glob, or an address of these in object storage; or a SELECT,
            recognized by its first word.
        root: the project's folder, where relative paths start.
        sql: runs a SELECT over the history's views.
        storage_options: the setting of that name.

    Raises:
        RequestError: it is none of these, the file is not there or not Parquet, or values make no column.
    """
    if isinstance(given, str) and is_object_address(given):
        return _scan_objects(given, storage_options or {})
    if isinstance(given, Path) or (isinstance(given, str) and not _QUERY.match(given)):
        return _scan_path(given, root)
    return _frame_of(given, sql), []


def _frame_of(given: Any, sql: SQLRunner) -> pl.DataFrame | pl.LazyFrame:
    """Return a spine that is given as rows, or as what makes them."""
    if isinstance(given, pl.DataFrame):
        return given
    if isinstance(given, pl.LazyFrame):
        with reading_spine("The lazy spine"):
            given.collect_schema()
        return given
    if isinstance(given, str):
        return sql(given)
    if isinstance(given, Mapping) or (isinstance(given, list) and all(isinstance(row, Mapping) for row in given)):
        return to_frame(given, "spine")
    if hasattr(given, "__arrow_c_stream__") or hasattr(given, "__dataframe__"):
        return to_frame(given, "spine")
    raise RequestError(
        f"A spine cannot be {with_article(type(given).__name__)}. Give a Polars or pandas frame, an Arrow table, "
        "a Parquet path or a SELECT."
    )


def _objects(given: str, storage_options: Mapping[str, str]) -> tuple[ObjectListing, Listing]:
    """Return the objects that a spine is given as, and what is at their address."""
    try:
        objects = ObjectListing(given, storage_options)
        listing = objects.find((".parquet",))
    except OSError as error:
        raise RequestError(f"The spine {given!r} cannot be read: {shown(error)}") from error
    if listing.is_delta:
        raise RequestError(f"The spine {given!r} is a Delta table. Read it first: pl.scan_delta(…).")
    if not listing.entries:
        below = f"{listing.below:,} objects below {objects.address(objects.base)}"
        what = f"there are {below}, but none of them is meant" if listing.below else "there is no such object and no such folder"
        raise RequestError(
            f"The spine {given!r} is not there: {what}. Give a Parquet file, a folder or a glob of files that end in .parquet, a "
            "frame, or a SELECT."
        )
    return objects, listing


def _is_hive(listing: Listing) -> bool:
    """Return whether the names of folders inside the one given tell columns."""
    folders = (entry.name[len(listing.base) :].rpartition("/")[0] for entry in listing.entries)
    return listing.kind == "folder" and any("=" in folder for folder in folders)


def _scan_objects(given: str, storage_options: Mapping[str, str]) -> tuple[pl.LazyFrame, list[Address]]:
    objects, listing = _objects(given, storage_options)
    if _is_hive(listing):  # Polars reads the columns that the names of its folders tell
        return _scanned(given, pl.scan_parquet(f"{given.rstrip('/')}/", storage_options=objects.options or None)), []
    files = [Address(objects.address(entry.name), objects.options) for entry in listing.entries]
    return _scanned(given, scan_files(files)), files


def _scan_path(given: str | Path, root: Path) -> tuple[pl.LazyFrame, list[Address]]:
    if isinstance(given, Path) and is_object_address(str(given).replace(":/", "://", 1)):
        raise RequestError(
            f"The spine {str(given)!r} is an address of {str(given).partition(':')[0]} that lost a slash as a Path. Give a text."
        )
    path = local_path(given, root, "spine")
    return _scan(path), [Address(str(file)) for file in _files_of(path)]


def _files_of(path: Path) -> list[Path]:
    """Return the Parquet files that a path names, if all of them can be read one by one; else none."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        plain = all(file.is_file() and (file == path or (file.suffix == ".parquet" and "=" not in file.name)) for file in files)
    except OSError:  # a name that is too long
        return []
    return files if plain else []


def _scan(path: Path) -> pl.LazyFrame:
    try:
        there = path.exists()
    except OSError as error:  # a name that is too long
        raise RequestError(f"The spine {str(path)!r} is neither a path ({error.strerror}) nor a SELECT.") from error
    if not there and "*" not in str(path):
        raise RequestError(f"The spine {str(path)!r} is not there. Give a Parquet file, a frame, or a SELECT.")
    # NOTE: what is there is taken by its name, which may have a glob's characters in it.
    return _scanned(str(path), pl.scan_parquet(path, glob=not there))


def _scanned(given: str, spine: pl.LazyFrame) -> pl.LazyFrame:
    try:
        spine.collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:  # it panics at zones that it does not know
        raise RequestError(
            f"The spine {given!r} cannot be read as Parquet: {_first_line(error)}. "
            "Give Parquet, or read another format first: pl.read_csv(…)."
        ) from _cause(error)
    return spine


@contextmanager
def reading_spine(what: str) -> Iterator[None]:
    """Translate what Polars raises while it runs a user's lazy frame.

    Raises:
        RequestError: the frame fails.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RequestError(f"{what} fails as it is read: {_first_line(error)}. Try its .collect() by itself.") from _cause(error)


def to_frame(given: Any, what: str) -> pl.DataFrame:
    """Return rows, columns or another library's frame as a Polars frame; every row has its say in the dtypes.

    Args:
        given: a list of dictionaries, a mapping of columns, or anything that speaks Arrow.
        what: what it is, for the message.

    Raises:
        RequestError: values make no column, columns differ in length, or two have one name.
    """
    if isinstance(given, Mapping):
        # An array of objects, of times with a zone say, is the list of them.
        given = {
            name: column.tolist() if getattr(getattr(column, "dtype", None), "kind", "") == "O" else column
            for name, column in given.items()
        }
    try:
        frame = frame_of(given, infer_schema_length=None)
    except _UNREADABLE as error:
        raise RequestError(f"The {what} cannot be made a frame: {_fault(given) or _first_line(error)}.") from error
    for name, dtype in frame.schema.items():
        if _may_round(dtype) and isinstance(given, (list, Mapping)):
            values = given.get(name) if isinstance(given, Mapping) else [row.get(name) for row in given]
            changed = next(_changed(values, frame[name].to_list()), None) if isinstance(values, (list, tuple)) else None
            if changed is not None:
                raise RequestError(
                    f"The {what} cannot be made a frame: {changed!r} in the column {name!r} is not the same number as "
                    f"{dtype}, which the others make it. Convert them to one type, Decimal say."
                )
    return frame


def _may_round(dtype: Any) -> bool:
    """Return whether Polars makes values of a dtype of numbers that are others (S22)."""
    return _may_round(dtype.inner) if isinstance(dtype, (pl.List, pl.Array)) else dtype.is_float() or dtype.is_decimal()


def _changed(given: Sequence[Any], converted: Sequence[Any]) -> Iterator[Any]:
    """Yield the integers and decimals, in lists too, that are others in a column."""
    if set(map(type, given)) <= {float, type(None)}:
        return
    for one, other in zip(given, converted, strict=True):
        if isinstance(one, (list, tuple)):
            yield from _changed(one, other)
        elif isinstance(one, (int, Decimal)) and (other is None or one != other):
            yield one


def is_column(given: Any) -> bool:
    """Return whether something is a column of values: a list, a tuple, an array or a series of whichever library."""
    return isinstance(given, Sized) and not isinstance(given, (str, bytes, Mapping)) and getattr(given, "ndim", 1) > 0


def whole_numbers(frame: pl.DataFrame, names: Collection[str]) -> list[pl.Series]:
    """Return those of some columns that are floats and could be integers, as these; NaN is a value that is missing."""
    columns = []
    for name in names:
        if name in frame.columns and frame.schema[name].is_float():
            column = frame[name].fill_nan(None)
            value, unfit = fitted(pl.col(name), column.dtype, pl.Int64())
            if unfit is None or not column.to_frame().select(unfit.any()).item():
                columns.append(column.to_frame().select(value.alias(name)).to_series())
    return columns


def _fault(given: Any) -> str:
    """Return what is wrong with rows that make no frame; empty where it is not known."""
    if isinstance(given, Mapping):
        columns: dict[Any, Any] = dict(given)
        lengths = {
            name: len(column) for name, column in columns.items() if isinstance(column, Sized) and not isinstance(column, str)
        }
        if len(set(lengths.values())) > 1:
            return f"its columns differ in length ({shown_lengths(lengths)})"
    elif isinstance(given, list):
        names = dict.fromkeys(name for row in given for name in row)
        columns = {name: [row.get(name) for row in given] for name in names}
    elif hasattr(given, "columns") and hasattr(given, "dtypes"):  # pandas
        texts = [str(name) for name in given.columns]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        if twice:
            return f"several columns are named {twice[0]!r}; rename all but one"
        columns = {name: given[name].tolist() for name in given.columns}
    else:
        return ""
    for name, column in columns.items():
        if not isinstance(name, str):
            return f"the column name {name!r} is not a string"
        kinds = sorted({type(value).__name__ for value in column if value is not None}) if isinstance(column, list) else []
        if not _makes_column(column, as_rows=isinstance(given, list)):
            return f"the column {name!r} has values that no one column holds ({', '.join(kinds)}); convert them to one type"
    return ""


def _makes_column(values: Any, *, as_rows: bool) -> bool:
    """Return whether values can be one Polars column; among rows it finds a common dtype where in a list it does not."""
    try:
        pl.DataFrame([{"": value} for value in values] if as_rows else {"": values}, infer_schema_length=None)
    except _UNREADABLE:
        return False
    return True


def shown_lengths(lengths: Mapping[Any, int]) -> str:
    """Return columns' lengths in words.

    Example:
        >>> shown_lengths({"k": 2, "t": 1})
        "'k' has 2, 't' has 1"
    """
    return ", ".join(f"{name!r} has {length}" for name, length in lengths.items())


def _first_line(error: BaseException) -> str:
    text = shown(error) if isinstance(error, Exception) else str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")


def _cause(error: BaseException) -> BaseException | None:
    return None if isinstance(error, Exception) and quotes_store(error) else error


def batches(spine: pl.DataFrame | pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Return a spine in parts of at most so many rows, in its order; at least one, perhaps empty.

    Raises:
        RequestError: a column cannot lie in a file, or the spine's lazy frame fails.
    """
    check_fileable(spine.collect_schema())
    if isinstance(spine, pl.DataFrame):
        yield from spine.iter_slices(rows) if spine.height else [spine]
        return
    empty = True
    with reading_spine("The lazy spine"):
        for batch in spine.collect_batches(chunk_size=rows, maintain_order=True):
            empty = False
            yield from batch.iter_slices(rows)
    if empty:
        yield pl.DataFrame(schema=spine.collect_schema())


def check_fileable(schema: Mapping[str, pl.DataType]) -> None:
    """Refuse columns that no Parquet file holds, or that Arrow, on the way there, does not know.

    Raises:
        RequestError: there is one; the message names it and what to do.
    """
    for name, dtype in schema.items():
        if not _is_fileable(dtype):
            raise RequestError(
                f"The column {name!r} is {dtype}, which cannot be written to Parquet. Cast it first, "
                f"pl.col({name!r}).cast(pl.Int64) or to pl.String, or leave it out of the spine.",
                column=name,
            )


def _is_fileable(dtype: Any) -> bool:
    if isinstance(dtype, (pl.List, pl.Array)):
        return _is_fileable(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return bool(dtype.fields) and all(_is_fileable(field.dtype) for field in dtype.fields)
    return dtype not in (pl.Object, pl.Int128, pl.UInt128)
