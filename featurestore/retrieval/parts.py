"""Parts: a result in a folder, as Parquet files of some rows each and a manifest that is written last.

The folder is on this machine or in object storage. No file of it is ever replaced: who finds the manifest there has a whole result,
and it stays as it is.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from uuid import uuid4

import polars as pl

from featurestore.durable import create_file, make_folders
from featurestore.errors import EngineError, RequestError
from featurestore.offline.folder import Folder, translated_errors
from featurestore.offline.scan import scan_files
from featurestore.version import VERSION

MANIFEST = "_manifest.json"
"""What the folder has, once all of it is there."""
CLAIM = "_unfinished"
"""Who writes into a folder has this file there meanwhile, so that nobody else does."""
FORMAT = 1
"""The version of the manifest's format."""
_PREFIX = "part-"


@dataclass(frozen=True)
class Part:
    """A file of the result, as the manifest tells of it.

    Args:
        name: its name in the folder.
        rows: how many rows it has.
        bytes: how large it is.
        sha256: the digest of its bytes.
    """

    name: str
    rows: int
    bytes: int
    sha256: str


def part_name(number: int) -> str:
    """Return the name of a part; by their names the parts are in the order of the rows.

    Example:
        >>> part_name(7)
        'part-00007.parquet'
    """
    return f"{_PREFIX}{number:05}.parquet"


def write_part(folder: Folder, number: int, rows: pl.DataFrame) -> Part:
    """Write rows as a part of a result. Written twice, also at once, it is there once, for the same rows make the same bytes.

    Raises:
        RequestError: there is another file of that name.
    """
    buffer = BytesIO()
    rows.write_parquet(buffer, compression="zstd")
    content, name = buffer.getvalue(), part_name(number)
    with translated_errors(folder, "written to"):
        is_ours = _is_created(folder, name, content) or folder.read(name) == content
    if not is_ours:
        raise RequestError(
            f"{folder.address(name).url} was written by somebody else meanwhile, and is left as it is. Name a folder of its own "
            "for each result."
        )
    return Part(name, rows.height, len(content), hashlib.sha256(content).hexdigest())


@contextmanager
def claimed(folder: Folder) -> Iterator[None]:
    """Have a folder for a result of one's own; on an error nothing of it is left.

    Raises:
        RequestError: there is a result in it, or somebody writes one.
    """
    url = folder.address().url
    with translated_errors(folder, "written to"):
        # NOTE: another content each time, or object storage takes one's own claim and another's for the same.
        is_claimed = _is_created(folder, CLAIM, f"{VERSION} {uuid4().hex}".encode())
    if not is_claimed:
        raise RequestError(
            f"Somebody writes a result to {url}, or was killed as they did. Name another folder; or, if nobody does, delete what "
            f"is in it, {CLAIM!r} last."
        )
    try:
        with translated_errors(folder, "listed"):
            there = [entry.name for entry in (*folder.list(MANIFEST), *folder.list(_PREFIX))]
        if there:
            what = "a result" if MANIFEST in there else f"files of a result, but no {MANIFEST}"
            raise RequestError(
                f"There is {what} in {url} already, and nothing of it is replaced. Name another folder, or empty it."
            )
        try:
            yield
        except BaseException:  # by an interruption too: a result that is cut off would be refused by the next call
            with suppress(OSError):  # what stays then is refused by the next call, which says what to do
                folder.delete([MANIFEST])
                folder.delete(entry.name for entry in folder.list(_PREFIX))
            raise
    finally:
        with suppress(OSError):
            folder.delete([CLAIM])


def write_manifest(folder: Folder, parts: Sequence[Part], schema: pl.Schema) -> None:
    """Write what a result has: from then on it is whole.

    Args:
        folder: where the parts lie.
        parts: the parts, in the order of the rows.
        schema: the columns of each.

    Raises:
        EngineError: a part is not there: the tasks that wrote it have another folder of that name.
        RequestError: somebody else has written a manifest.
    """
    url = folder.address().url
    with translated_errors(folder, "listed"):
        sizes = {entry.name: entry.size for entry in folder.list(_PREFIX)}
    lacking = [part.name for part in parts if sizes.get(part.name) != part.bytes]
    if lacking:
        raise EngineError(
            f"{len(lacking)} of {len(parts)} files that the tasks have written are not in {url}: {lacking[0]} and so on. They run "
            "on machines that have a folder of their own by that name. Name one that all of them reach, or s3://…"
        )
    manifest = {
        "format": FORMAT,
        "rows": sum(part.rows for part in parts),
        "columns": [{"name": name, "dtype": str(dtype)} for name, dtype in schema.items()],
        "files": [asdict(part) for part in parts],
        "written_by": f"featurestore {VERSION}",
    }
    with translated_errors(folder, "written to"):
        is_written = _is_created(folder, MANIFEST, json.dumps(manifest, indent=1).encode())
    if not is_written:
        raise RequestError(f"Somebody else has written a result to {url} meanwhile. Name a folder of its own for each result.")


def scan_parts(folder: Folder, parts: Sequence[Part]) -> pl.LazyFrame:
    """Return the rows of a result, in their order."""
    return scan_files([folder.address(part.name) for part in parts])


def _is_created(folder: Folder, name: str, content: bytes) -> bool:
    """Create a file, and return whether there was none of that name. On this machine its asker may read it as umask says."""
    path = folder.address(name).path
    if path is None:
        return folder.create(name, content) is not None
    make_folders(path.parent, private=False)
    return create_file(path, content, private=False) is not None
