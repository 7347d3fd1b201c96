"""Scrubbing deleted records from LMDB's file, so that their bytes cannot be read any more.

LMDB never writes over a page that some version has, and of a page it writes what is used: so what was deleted stays in pages that
are free, in the gaps of others, and as a key by which a page above knows one below. Here all records are deleted and put again,
some at a time and by an environment that has no memory of former pages, which recreates all pages; then records as large as a
page are put into all that are free. The file itself is only read, to see where that is needed and whether it has worked.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from time import sleep
from typing import Any

import lmdb

from featurestore.online.lmdb.environment import LMDBEnvironments

_ROUNDS = 4
_PAUSE = 0.02
_SCRATCH = b"\0featurestore-scratch-"
_PAGES_A_TRANSACTION = 16_384
_BYTES_A_TRANSACTION = 4 << 20
_MORE = 16
"""Each round rewrites so many times as much at once, because the edges of the round before were left over."""
_FEW = 32
_LEAST = 12
"""A shorter text may stand anywhere by chance."""


def scrub(files: LMDBEnvironments, path: Path, places: Sequence[bytes], records: Collection[bytes]) -> bool:
    """Write over what is left of deleted records; return whether nothing is found of them any more.

    Args:
        files: the open files.
        path: their folder.
        places: the keys as LMDB had them; none of them is there now.
        records: values that were deleted.
    """
    data = path / "data.mdb"
    texts = {*places, *(part for place in places if len(part := place[place.find(b"{") :]) >= _LEAST)}
    texts |= {record[8:] for record in records if len(record) >= 8 + _LEAST}
    texts -= files.look(partial(_held_by_others, texts))
    if not (records or _found(data, texts, places)):
        return True
    for number in range(_ROUNDS):
        files.open_anew()
        files.forget_dead_readers()
        start: bytes | None = b""
        while start is not None:
            start = files.change(partial(_put_anew, start, _BYTES_A_TRANSACTION * _MORE**number))
        for _ in range(2):
            _fill_free_pages(files)
        if not _found(data, texts, places):
            return True
        sleep(_PAUSE)  # a reader may have kept a page from being used again
    return False


def _held_by_others(texts: Collection[bytes], transaction: "lmdb.Transaction[bytes]") -> set[bytes]:
    """Return which texts stand in records that others have: a row that is equal, the same entity in another project."""
    wanted, few = set(texts), len(texts) <= _FEW
    shared: set[bytes] = set()
    with transaction.cursor() as cursor:
        for place, record in cursor:
            if few:
                shared.update(text for text in wanted if text in place or text in record)
            else:
                shared.update(wanted.intersection((place, place[place.find(b"{") :], record[8:])))
    return shared


def _put_anew(start: bytes, most: int, transaction: "lmdb.Transaction[bytes]") -> bytes | None:
    """Delete and put again the records from a key on, about so many bytes; return where to go on (None: that was all)."""
    pairs: list[tuple[bytes, bytes]] = []
    size = 0
    following: bytes | None = None
    with transaction.cursor() as cursor:
        there = cursor.set_range(start) if start else cursor.first()
        while there:
            key, value = cursor.item()
            if size >= most:
                following = key
                break
            pairs.append((key, value))
            size += len(key) + len(value)
            there = cursor.next()
    for key, _ in pairs:
        transaction.delete(key)
    for key, value in pairs:
        transaction.put(key, value)
    return following


def _found(data: Path, texts: set[bytes], places: Sequence[bytes]) -> bool:
    """Return whether some texts stand in a file."""
    with data.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as view:
        return next(_positions(view, texts, places), None) is not None


def _positions(view: Any, texts: set[bytes], places: Sequence[bytes]) -> Iterator[int]:
    if len(texts) <= _FEW:
        for text in texts:
            position = view.find(text)
            while position >= 0:
                yield position
                position = view.find(text, position + 1)
        return
    # Of many, looking for what all keys begin with takes one pass.
    wanted, lengths = set(places), sorted({len(place) for place in places})
    for match in re.finditer(re.escape(_common(places)), view):
        if any(view[match.start() : match.start() + length] in wanted for length in lengths):
            yield match.start()


def _common(places: Sequence[bytes]) -> bytes:
    first, last = min(places), max(places)
    end = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))
    return first[:end]


def _fill_free_pages(files: LMDBEnvironments) -> None:
    """Write zeros over the pages that are free."""
    files.change(_clear_scratch)  # what a killed process left
    for _ in range(2):  # LMDB uses a page again when two more versions have come
        files.change(_touch)
    number = 0
    while True:
        written = files.change(_write_scratch(files, number))
        number += written
        if written < _PAGES_A_TRANSACTION:
            break
    while files.change(_clear_scratch):
        pass


def _touch(transaction: "lmdb.Transaction[bytes]") -> None:
    transaction.put(_SCRATCH, b"")
    transaction.delete(_SCRATCH)


def _write_scratch(files: LMDBEnvironments, number: int) -> Callable[["lmdb.Transaction[bytes]"], int]:
    def work(transaction: "lmdb.Transaction[bytes]") -> int:
        stat = transaction.stat()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        free = min(files.pages() - used, _PAGES_A_TRANSACTION)
        value = bytes(stat["psize"] - 16)  # with its header, a whole page of its own
        for page in range(number, number + free):
            transaction.put(_SCRATCH + page.to_bytes(8, "big"), value)
        return free

    return work


def _clear_scratch(transaction: "lmdb.Transaction[bytes]") -> int:
    deleted = 0
    with transaction.cursor() as cursor:
        there = cursor.set_range(_SCRATCH)
        while there and cursor.key().startswith(_SCRATCH) and deleted < _PAGES_A_TRANSACTION:
            cursor.delete()
            deleted += 1
            there = bool(cursor.key())
    return deleted
