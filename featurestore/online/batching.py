"""Batches of entries: one entry for each key, in batches of limited size."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from featurestore.online.base import Entry


def greatest(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries without those that another entry of their key outdoes; of two equal ones the first stays.

    Raises:
        ValueError: a key that is to be replaced has several entries.

    Example:
        >>> greatest([Entry(b"k", b"2"), Entry(b"k", b"1")])
        [Entry(key=b'k', value=b'2', ttl_ms=None, replaces=None)]
    """
    best: dict[bytes, Entry] = {}
    for entry in entries:
        known = best.setdefault(entry.key, entry)
        if known.value < entry.value:
            best[entry.key] = entry
    if len(best) == len(entries):
        return entries
    swaps = [entry.key for entry in entries if entry.replaces is not None]
    counts = Counter(entry.key for entry in entries)
    if any(counts[key] > 1 for key in swaps):
        raise ValueError("A key that is to be replaced may have only one entry in a batch.")
    return list(best.values())


def batches(entries: Iterable[Entry], most: int, most_bytes: int) -> Iterator[list[Entry]]:
    """Yield the entries in batches of at most so many entries, and bytes where an entry is not larger by itself.

    Example:
        >>> [len(batch) for batch in batches([Entry(b"k%d" % i, b"v") for i in range(5)], most=2, most_bytes=100)]
        [2, 2, 1]
    """
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        length = len(entry.key) + len(entry.value)
        if batch and (len(batch) == most or size + length > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += length
    if batch:
        yield batch
