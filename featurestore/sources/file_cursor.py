"""The cursor over files: which were read, up to which time, and how a changed file is detected (S18).

A cursor is ``{"form": 2, "through": the greatest end read so far, "files": {name: [stamp, rest, checksum, rows, waits]}}``. One
of before, ``{"through": …, "files": {name: [size, modified, complete]}}``, cannot tell whether a file changed or which of its
rows were passed over, so but for files that never change it is read as one that knows nothing.

In object storage a cursor does not name every object for ever. It has ``"seen": [address, before, unnamed, aside]`` besides: an
object of that address that it does not name, and that was last modified before that instant, was read; how many there were; and
the objects that were set aside, which were not. The instant lies a day, or ``lateness=`` where that is longer, before the newest
object's, for ``LastModified`` does not say when an object came to be there: it has whole seconds, and of one that was uploaded in
parts it is when the upload began. Those of the span behind the instant are named, with their ETags. So:

- An object is read, once and whole, that appears within the span after the time that it bears, and so is one that replaces another.
- One that appears later than that, after an upload of more than a day say, is not found: a run says that there is one.
- An object with a time ahead of this machine's clock moves nothing, and where this clock is wrong more is named.
- A cursor that names every object goes on, and one of another address tells nothing of the objects that it does not name.

On a disk every file is named: times of files can be set, and a folder that is moved to a source brings files with all their times.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featurestore.sources.base import Cursor
from featurestore.sources.paths import SourceFile

FORM = 2
SETTLED = 5_000_000_000
"""For how many nanoseconds after a change a further one may have the same times: file systems count them in steps, of two
seconds at the most."""

SPAN = 86_400_000_000
"""How much later than the time that it bears an object may appear at least, in microseconds."""

_BLOCK = 1 << 20
_NANO = 1_000
_STEP = 2_000_000
"""How far the times of a store may lie from each other because they have whole seconds."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What is known of a file that was read.

    Args:
        stamp: what changes when the file does.
        rest: up to which instant its rows were read, in microseconds; None where it has none that are later.
        checksum: of its bytes, where its times cannot tell whether it changed again; None where they can.
        rows: how many rows it had.
        waits: since when its last record is waited for, in microseconds; None where it is whole.
    """

    stamp: tuple[int | str, ...]
    rest: int | None
    checksum: int | None
    rows: int
    waits: int | None = None

    def to_plain(self) -> list[Any]:
        """Return it as a cursor has it."""
        return [list(self.stamp), self.rest, self.checksum, self.rows, self.waits]

    @property
    def is_read(self) -> bool:
        """Whether none of its rows is left to a later run."""
        return self.rest is None and self.waits is None


@dataclass(frozen=True, slots=True)
class Horizon:
    """What a cursor says of the objects that it does not name.

    Args:
        address: the source's address.
        before: those that were last modified before were read, in microseconds; None where none was.
        unnamed: how many these were.
        aside: the names of those that could not be read.
    """

    address: str
    before: int | None = None
    unnamed: int = 0
    aside: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cursor: Cursor | None, address: str) -> "Horizon":
        """Return that of a cursor, for a source of an address."""
        seen = (cursor or {}).get("seen")
        if seen is None or seen[0] != address:
            return cls(address)
        return cls(address, seen[1], seen[2], frozenset(seen[3]))

    def to_plain(self) -> list[Any]:
        """Return it as a cursor has it."""
        return [self.address, self.before, self.unnamed, sorted(self.aside)]

    def covers(self, file: SourceFile) -> bool:
        """Return whether an object that the cursor does not name was read."""
        return self.before is not None and file.modified // _NANO < self.before and file.name not in self.aside

    def moved(self, files: Sequence[SourceFile], now: int, lateness: int) -> int | None:
        """Return before which instant all of some objects will have been read, once those that are new are.

        Args:
            files: the objects that were listed.
            now: the present.
            lateness: how much later than the time that it bears an object may appear, where that is more than a day.
        """
        if not files:
            return self.before
        newest = min(max(file.modified for file in files) // _NANO, now)
        instants = [instant for instant in (self.before, newest - max(lateness, SPAN) - _STEP) if instant is not None]
        return max(instants)


def known_files(cursor: Cursor | None, *, immutable: bool) -> dict[str, KnownFile]:
    """Return what a cursor knows, by the files' names.

    Args:
        cursor: the cursor; None for none.
        immutable: whether files of this source never change, so that a cursor of before can be believed.
    """
    if not cursor:
        return {}
    if cursor.get("form") == FORM:
        return {
            name: KnownFile(tuple(stamp), rest, checksum, rows, waits)
            for name, (stamp, rest, checksum, rows, waits) in cursor["files"].items()
        }
    if not immutable:
        return {}
    through = cursor["through"]
    return {
        name: KnownFile((size, modified), None if complete else through, None, 0)
        for name, (size, modified, complete) in cursor["files"].items()
    }


def same_stamp(known: Sequence[int | str], stamp: Sequence[int | str]) -> bool:
    """Return whether a stamp is one known before; one of an earlier version tells less.

    Example:
        >>> same_stamp([10, 5], [10, 5, 7, 1]), same_stamp([10, 5, 6, 1], [10, 5, 7, 1])
        (True, False)
    """
    return list(known) == list(stamp[: len(known)])


def checksum(location: str) -> int:
    """Return a checksum of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    crc = 0
    with Path(location).open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def look(file: SourceFile, known: KnownFile | None, looked: int) -> tuple[KnownFile | None, int | None]:
    """Return what is known of a file if it is the one known, None if it is new or has changed; and its checksum if it needs one.

    Args:
        file: the file as it is.
        known: what is known of one of its name.
        looked: when the files were listed, in nanoseconds on the clock of the files' times.

    Raises:
        OSError: it cannot be read.
    """
    recent = bool(file.changed) and max(file.modified, file.changed) > looked - SETTLED
    if known is None or not same_stamp(known.stamp, file.stamp):
        return None, checksum(file.location) if recent else None
    if known.checksum is None:
        return known, None
    current = checksum(file.location)
    if current != known.checksum:
        return None, current
    return replace(known, checksum=current if recent else None), None


def settled(before: Mapping[str, KnownFile], known: Mapping[str, KnownFile]) -> int:
    """Return how many bytes need no checksum any more: those of files that have been left alone since they were read."""
    return sum(
        int(state.stamp[0])
        for name, state in known.items()
        if state.checksum is None and name in before and before[name].checksum is not None
    )
