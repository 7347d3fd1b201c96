"""The loss mark of an LMDB folder: detects that its files were deleted or restored from an older copy.

The mark is a record in the file, so recreated files have none. Beside the folder lies a note of the last transaction that was
written: a file that is behind it is an older copy.
"""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from featurestore.durable import open_lock, remove
from featurestore.online.base import Epoch

_T = TypeVar("_T")

_NEVER = bytes(8)
_NOTE_BYTES = 256


class LMDBMarks:
    """See ``Marks``.

    Args:
        path: the folder.
        change: does some work in a write transaction, and tells what was to be done where it fails.
        look: does some work in a read transaction.
    """

    def __init__(
        self, path: Path, change: Callable[[str, Callable[[Any], Any]], Any], look: Callable[[Callable[[Any], Any]], Any]
    ) -> None:
        self._note = path.absolute().with_name(f"{path.name}.written")
        self._change = change
        self._look = look

    def agree(self, epoch: Epoch) -> None:
        """Do nothing: there is one layout."""

    def look(self, epoch: Epoch) -> list[str]:
        """Return what may have been lost, in a sentence; none where the mark is the epoch's."""
        missed = self._look(lambda transaction: self.missed(epoch, transaction, transaction.id()))
        return [missed] if missed else []

    def place(self, epoch: Epoch) -> None:
        """Mark the files."""
        with suppress(OSError):
            remove([self._note])
        self._change("written", lambda transaction: transaction.put(epoch.key, _NEVER + epoch.value))
        self.note(epoch)

    def strangers(self, project: bytes, most: int = 1_000_000) -> dict[bytes, int]:
        """Return how many keys of a project have which second part, as far as so many keys are looked at."""
        counts: Counter[bytes] = Counter()

        def count(transaction: Any) -> None:
            with transaction.cursor() as cursor:
                there = cursor.set_range(project)
                while there and cursor.key().startswith(project) and counts.total() < most:
                    counts[cursor.key()[len(project) :].partition(b"/")[0]] += 1
                    there = cursor.next()

        self._look(count)
        return dict(counts)

    def missed(self, epoch: Epoch, transaction: Any, last: int) -> str:
        """Return what may have been lost, as a transaction sees the files; empty where nothing was.

        Args:
            epoch: what the mark must hold.
            transaction: sees the files.
            last: the last transaction that was committed to them.
        """
        mark = transaction.get(epoch.key)
        if mark is None:
            return "its mark is gone, as after its files were deleted or recreated"
        if mark[8:] != epoch.value:
            return "its mark is not the one that the registry has, as after either was put back from a copy"
        if last < self._noted(epoch):
            return "its files were put back from an older copy"
        return ""

    def note(self, epoch: Epoch) -> None:
        """Note the last transaction that is in the files."""
        last: int = self._look(lambda transaction: transaction.id())
        if last <= self._noted(epoch):
            return
        # NOTE: where it cannot be written, as in a folder of someone else, an older copy goes unnoticed by it, and nothing else.
        with suppress(OSError):
            note = open_lock(self._note)
            try:
                os.pwrite(note, b"%s %d".ljust(_NOTE_BYTES) % (epoch.value, last), 0)
            finally:
                os.close(note)

    def _noted(self, epoch: Epoch) -> int:
        try:
            value, _, last = self._note.read_bytes().partition(b" ")
        except OSError:
            return 0
        last = last.strip()
        return int(last) if value == epoch.value and last.isdigit() else 0
