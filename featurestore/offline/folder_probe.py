"""Whether a folder keeps the promises that commits rely on: a store may ignore a condition without a word."""

import errno
from uuid import uuid4

from featurestore.errors import OfflineStoreError
from featurestore.offline.folder import Folder

PROBES = "_probe/"
"""Where the files of a probe lie while it runs; one that a killed process left may be deleted."""
_probed: set[tuple[str, str]] = set()


def probe(folder: Folder) -> bool:
    """Return whether a folder can replace a file by comparison (``swap``), after it was seen that it creates a file once.

    It writes a file of a random name, and deletes it.

    Raises:
        OfflineStoreError: it does not do what it says: of two writers at once, one would lose its rows.
        OSError: it cannot be reached.
    """
    name = f"{PROBES}{uuid4().hex}"
    first, second, third = (uuid4().bytes for _ in range(3))
    former = folder.create(name, first)
    try:
        if former is None or folder.create(name, second) is not None or folder.read(name) != first:
            raise OfflineStoreError(
                f"{folder.address().url} cannot keep a history: asked to create an object only where there is none, the store "
                "replaced the one that was there. It ignores the header If-None-Match, so of two writers at once one would lose "
                "its rows without an error. Use a store that knows it, as S3, Google Cloud Storage and Azure do; of a server or "
                "gateway of your own, look for a newer version."
            )
        return _swaps(folder, name, former, second, third)
    finally:
        folder.delete([name])


def _swaps(folder: Folder, name: str, former: str, second: bytes, third: bytes) -> bool:
    try:
        stamp = folder.swap(name, second, former)
        return stamp is not None and folder.swap(name, third, former) is None and folder.read(name) == second
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return False
        raise


def keeps_versions(folder: Folder) -> bool:
    """Return whether a store keeps what is deleted there, as a version of it: it writes a file, and deletes it.

    Google Cloud Storage does not say so of its buckets.
    """
    name = f"{PROBES}{uuid4().hex}"
    folder.create(name, uuid4().bytes)
    try:
        entry = folder.head(name)
    finally:
        folder.delete([name])
    return entry is not None and bool(entry.version)


def require_conditions(folder: Folder) -> None:
    """Raise where a folder in object storage does not create a file once; each process tries a bucket once.

    Raises:
        OfflineStoreError: it does not.
        OSError: it cannot be reached.
    """
    place = folder.address()
    bucket = place.url.split("/")[2] if place.path is None else "", place.options.get("endpoint_url", "")
    if place.path is None and bucket not in _probed:
        probe(folder)
        _probed.add(bucket)
