"""Paths that callers give, and addresses that look like one."""

import os
import re
from pathlib import Path

from featurestore.errors import RequestError
from featurestore.object_storage import is_object_address

# A scheme has two letters at least: one is a drive. Of an address that went through ``Path`` a single slash is left.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def given_place(given: str | Path, root: Path, what: str) -> str:
    """Return the place that a caller names: a path of this machine, relative to a folder, or an address in object storage.

    Raises:
        RequestError: it is the address of something else.

    Example:
        >>> given_place("s3://lake/backup", Path("/project"), "backup")
        's3://lake/backup'
    """
    text = str(given)
    return text if is_object_address(text) else str(local_path(given, root, what))


def local_path(given: str | Path, root: Path, what: str) -> Path:
    """Return the file or folder of this machine that a caller names, relative to a folder.

    Args:
        given: a path, or an address that begins with ``file://``.
        root: where a relative path starts.
        what: what it is to be, for the message: ``"sink"``.

    Raises:
        RequestError: it is the address of something elsewhere.

    Example:
        >>> local_path("train.parquet", Path("/project"), "sink").as_posix()
        '/project/train.parquet'
    """
    text = str(given)
    address = _ADDRESS.match(text)
    if address is None:
        return root / Path(text).expanduser()
    if address[1] == "file":
        return Path("/" + text[len("file:") :].lstrip("/"))
    raise RequestError(
        f"The {what} {text!r} is an address of {address[1]}, and only paths of this machine are supported here. Name a path, and "
        "copy from or to there by its own means, or mount it."
    )


def folder_path(url: str, root: Path) -> Path:
    """Return the folder of this machine that a setting names: a path, which may begin with ``file://``, relative to a folder.

    Example:
        >>> folder_path(".featurestore/offline", Path("/project")).as_posix()
        '/project/.featurestore/offline'
    """
    return root / Path(url.removeprefix("file://")).expanduser()


def is_folder(given: str | Path, what: str) -> bool:
    """Return whether a caller names a folder, by a slash at its end; in object storage nothing else can be named.

    Args:
        given: a path or an address.
        what: what it is to be, for the message: ``"sink"``.

    Raises:
        RequestError: it is an address in object storage without a slash at its end.

    Example:
        >>> is_folder("train.parquet", "sink"), is_folder("train/", "sink"), is_folder("s3://lake/train/", "sink")
        (False, True, True)
    """
    text = str(given)
    if text.endswith(("/", os.sep)):
        return True
    if is_object_address(text):
        raise RequestError(
            f"The {what} {text!r} is an address of {text.partition(':')[0]}, where it is written as several files: name a folder, "
            f"with a slash at its end: '{text.removesuffix('.parquet')}/'."
        )
    return False
