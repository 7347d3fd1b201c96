"""Erasing records from LMDB's file, not only from what is read.

LMDB never writes over a page that some version has, so what was deleted stays in pages that are free, and in the gaps of pages
that are in use, until it happens to be written over. Here that is brought about: gaps are filled with zeros by records that are
put there and deleted again, and free pages by records as large as a page. The file is only read to see where that is needed,
and whether it has worked.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import Struct
from time import sleep
from typing import Any

import lmdb

from featurestore.online.lmdb_files import Files

_ROUNDS = 8
_PAUSE = 0.02
_BRANCH, _LEAF = 0x01, 0x02
_PAGE_HEADER = Struct("=QHHHH")  # its number, padding, flags, where the gap begins, where it ends
_NODE_HEADER = Struct("=HHHH")  # the value's size, flags, the key's size
_LONGEST_KEY = 511
_SCRATCH = b"\0featurestore-scratch-"
_PAGES_A_TRANSACTION = 16_384
_PAGES_A_CHANGE = 2_000
_RECORDS_A_LEAF = 400
_FILLERS = 4
_FEW = 32
_LEAST = 12
"""A shorter text may stand anywhere by chance."""


def scrub(files: Files, path: Path, places: Sequence[bytes], records: Collection[bytes]) -> bool:
    """Writes over what is left of deleted records; tells whether nothing is found of them any more.

    Args:
        files: the open files.
        path: their folder.
        places: the keys as LMDB had them; none of them is there now.
        records: values that were deleted.
    """
    data = path / "data.mdb"
    texts = {*places, *(each for place in places if len(each := place[place.find(b"{") :]) >= _LEAST)}
    texts |= {record[8:] for record in records if len(record) >= 8 + _LEAST}
    if not (records or _found(data, texts, places)):
        return True
    for _ in range(_ROUNDS):
        files.forget_dead_readers()
        _fill_free_pages(files)
        pages = list(_with_gaps(data))
        for first in range(0, len(pages), _PAGES_A_CHANGE):
            files.change(partial(_fill_gaps, pages[first : first + _PAGES_A_CHANGE]))
        files.change(partial(_renew_leaves, places, _found(data, texts, places)))
        _fill_free_pages(files)
        if not _found(data, texts, places):
            return True
        sleep(_PAUSE)  # a reader may have kept a page from being used again
    return False


def _with_gaps(data: Path) -> Iterator[bytes]:
    """Yields the leaves in a file, be they in use or not, in whose gaps something stands."""
    with data.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as view:
        size = _page_size(view)
        for start in range(2 * size, len(view) - size + 1, size):
            number, _, flags, lower, upper = _PAGE_HEADER.unpack_from(view, start)
            fits = _PAGE_HEADER.size < lower < upper <= size
            if flags == _LEAF and number == start // size and fits and any(view[start + lower : start + upper]):
                yield view[start : start + size]


def _found(data: Path, texts: set[bytes], places: Sequence[bytes]) -> dict[int, bytes]:
    """Returns the pages of a file in which some texts stand."""
    found: dict[int, bytes] = {}
    with data.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as view:
        size = _page_size(view)
        for position in _positions(view, texts, places):
            page = position // size
            found[page] = view[page * size : (page + 1) * size]
    return found


def _page_size(view: Any) -> int:
    # The meta page tells it: after the page's header come a magic number, a version, an address, the map's size, then this.
    return int.from_bytes(view[16 + 24 : 16 + 28], "little") or 4096


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


def _fill_gaps(pages: Sequence[bytes], transaction: "lmdb.Transaction[bytes]") -> None:
    """Fills the gaps of pages that are in use with zeros."""
    for page in pages:
        _, _, _, lower, upper = _PAGE_HEADER.unpack_from(page)
        node = int.from_bytes(page[_PAGE_HEADER.size : _PAGE_HEADER.size + 2], "little")
        if not upper <= node <= len(page) - _NODE_HEADER.size:
            continue
        length = _NODE_HEADER.unpack_from(page, node)[3]
        key = page[node + _NODE_HEADER.size : node + _NODE_HEADER.size + length]
        record = transaction.get(key) if key and len(key) + _FILLERS <= _LONGEST_KEY else None
        if record is None:
            continue  # the page is free, and was written over
        room = upper - lower
        held = None
        if room < 2 * (len(key) + 16) and len(record) < len(page) // 4:
            # Too little for another record beside it: so instead of it, for a moment that no reader sees.
            held = bytes(record)
            transaction.delete(key)
            room += _node_size(key, held)
        put = []
        for number in range(1, _FILLERS + 1):
            beside = key + bytes(number)
            value = min(room - _node_size(beside, b""), len(page) // 2 - 64 - len(beside)) & ~1
            if value < 0 or transaction.get(beside) is not None:
                break
            transaction.put(beside, bytes(value))
            put.append(beside)
            room -= _node_size(beside, bytes(value))
        for beside in put:
            transaction.delete(beside)
        if held is not None:
            transaction.put(key, held)


def _node_size(key: bytes, value: bytes) -> int:
    """Returns what a record takes of a leaf: its header, key and value, an even number of bytes, and two of the page's list."""
    return (_NODE_HEADER.size + len(key) + len(value) + 1 & ~1) + 2


def _renew_leaves(places: Sequence[bytes], pages: dict[int, bytes], transaction: "lmdb.Transaction[bytes]") -> None:
    """Empties and fills again the leaves at whose beginning a deleted record was, for the pages above know them by its key."""
    if not any(_PAGE_HEADER.unpack_from(page)[2] == _BRANCH for page in pages.values()):
        return
    for place in places:
        held: list[tuple[bytes, bytes]] = []
        with transaction.cursor() as cursor:
            there = cursor.set_range(place)
            while there and len(held) < _RECORDS_A_LEAF:
                held.append((cursor.key(), cursor.value()))
                there = cursor.next()
        for key, _ in held:
            transaction.delete(key)
        for key, value in held:
            transaction.put(key, value)


def _fill_free_pages(files: Files) -> None:
    """Writes zeros over the pages that are free."""
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


def _write_scratch(files: Files, number: int) -> Callable[["lmdb.Transaction[bytes]"], int]:
    def work(transaction: "lmdb.Transaction[bytes]") -> int:
        stat = transaction.stat()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        free = min(files.pages() - used, _PAGES_A_TRANSACTION)
        value = bytes(stat["psize"] - 16)  # with its header, a whole page of its own
        for each in range(number, number + free):
            transaction.put(_SCRATCH + each.to_bytes(8, "big"), value)
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
