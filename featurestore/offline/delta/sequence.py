"""The sequence of a table: pushes and intents of commits in one order, without a lock.

Entry ``n`` is the file ``_pushed/<n>.parquet``, and **who creates it has the number**. It was computed from the table and all
entries before it, so no row is in two places. A push is a part of the table from its entry on. An intent is made by the next
writer, in the order of the entries: one version of the Delta table adds and removes its files, and notes how far the intents are
made (the transaction ``applied``) and up to which the pushes are in the files (``pushed``). So a process that dies after the
creation of an entry has done its work, and one that dies before has done nothing; no lock can be lost, and no clock matters.

Entries up to ``pushed`` are deleted at some time. A writer who slept meanwhile could create one of their numbers again; it sees by
the table's ``pushed`` that its entry counts for nothing, and starts over.
"""

import random
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from time import sleep

import polars as pl

from featurestore.clock import Clock, to_micros
from featurestore.durable import TEMPORARY, make_mark, sync_folder
from featurestore.errors import OfflineStoreError
from featurestore.locks import Locks
from featurestore.offline.base import Table
from featurestore.offline.delta.commit_instants import CommitInstants
from featurestore.offline.delta.dedup_index import DedupIndex
from featurestore.offline.delta.files import with_columns_of
from featurestore.offline.delta.log_entries import LOG, recorded_instant, recorded_intents, recorded_outcome
from featurestore.offline.delta.open import settle
from featurestore.offline.delta.sequence_entries import Intent, packed_intent, packed_push, unpacked
from featurestore.offline.delta.table import DeltaState, apply_intent, open_state
from featurestore.offline.folder import Entry, Folder
from featurestore.offline.folder_probe import require_conditions

FOLDER = "_pushed"
MARK = ".last"
_DIGITS = 16
_ENTRY = re.compile(rf"(\d{{{_DIGITS}}})(-[^.]*)?\.parquet")
_MARK = re.compile(rf"(\d+){re.escape(MARK)}")
_ATTEMPTS = 20
_LOOKS = 3
_PATIENCE = 60.0
_OPTIMISTIC = 3
"""How often a writer tries to be the next one before it queues up with others that did not succeed."""
_LONGEST_PAUSE = 0.05
_AHEAD = 60_000_000
"""An instant that lies further ahead, in microseconds, is of a wrong clock."""


@dataclass(frozen=True)
class _Known:
    """What is known of an entry: its stamp, what it holds, and its instant in microseconds."""

    stamp: str
    content: pl.DataFrame | Intent
    stored: int


@dataclass(frozen=True)
class View:
    """A table and its sequence at one instant.

    Args:
        state: the table.
        pushes: the rows of each push that is not in the table's files, by number and in their order, with the hash of the keys.
        pending: the intents that nobody has made yet, by number and in their order.
        last: the greatest number of an entry that there is, or was.
        is_whole: whether no entry is lost of those that must be there.
        behind: the entries that the table's files have already, by number: nobody has deleted them yet.
    """

    state: DeltaState
    pushes: Mapping[int, pl.DataFrame] = field(default_factory=dict)
    pending: Mapping[int, Intent] = field(default_factory=dict)
    last: int = 0
    is_whole: bool = True
    behind: Mapping[int, Entry] = field(default_factory=dict)

    def after(self, number: int) -> list[pl.DataFrame]:
        """Return the rows of the pushes after one, in their order."""
        return [rows for seq, rows in self.pushes.items() if seq > number]

    def pushed_with(self, folded: int | None = None) -> int | None:
        """Return up to which push the files have the rows once the next entry is made; None where it is as before.

        Args:
            folded: the greatest push whose rows that entry adds to the files; None where it adds those of none.
        """
        waiting = any(seq > (folded or 0) for seq in self.pushes)
        # Without pushes that wait nothing has to be kept of what came before, so all entries may be deleted.
        return folded if waiting or not self.is_whole else self.last + 1


class TableSequence:
    """Read and write the sequence of one table. Threads may share it.

    Args:
        folder: the table's folder.
        table: the table.
        locks: the locks of all who write to it: writers that meet too often queue up.
        clock: tells the present.
    """

    def __init__(self, folder: Folder, table: Table, locks: Locks, clock: Clock) -> None:
        self.folder = folder
        self.table = table
        self.columns = table.features.keys()
        self.known = DedupIndex(folder, table)
        self.kept_instants = CommitInstants(folder)
        self.lock = threading.Lock()
        """Held by a thread that looks what is known of rows it pushes, and until their entry is there."""
        self._locks = locks
        self._clock = clock
        self._state: DeltaState | None = None
        self._contents: dict[int, _Known] = {}
        self._entries: dict[int, Entry] = {}
        self._marks: list[int] = []
        self._removed = 0

    def look(self) -> View:
        """Return the table and its sequence as they are at one instant, and change nothing."""
        # NOTE: what was opened counts as long as nobody has committed: to open a table takes milliseconds.
        state = self._state or self._open()
        for _ in range(_ATTEMPTS):
            try:
                view = self._view(state)
            except FileNotFoundError:  # its rows were added to the table since, and it was deleted
                view = None
            if not state.is_current():
                state = self._open()
            elif view is not None:
                return view
        raise OfflineStoreError(f"{self.table} changed {_ATTEMPTS} times over while it was opened. Open it again.")

    def settle(self) -> View:
        """Return the same for a writer, after making what others have claimed and not made."""
        for _ in range(_ATTEMPTS):
            view = self.look()
            if not view.pending:
                return view
            number, intent = next(iter(view.pending.items()))
            apply_intent(view.state, number, intent)
        raise OfflineStoreError(f"{self.table} changed {_ATTEMPTS} times over while it was written to. Repeat the call.")

    def push(self, view: View, rows: pl.DataFrame) -> int | None:
        """Add rows that were computed from a settled view, and return their number; None where another entry came first."""
        number = view.last + 1
        stored = self._instant_after(view)
        if not self._create(number, packed_push(rows, stored), rows, stored):
            return None
        # Entries are deleted only once the table says that they are in its files. So if it says so of this number, which was
        # created only now, the number may have been another's before. Who tries again finds out.
        if not view.state.is_current() and open_state(self.folder, view.state).folded >= number:
            return None
        self._mark(number)
        return number

    def commit(self, view: View, intent: Intent) -> bool | None:
        """Change the table's files as an intent says that was computed from a settled view.

        Returns:
            Whether it was made: where a file is gone that it removes, it never will be. None where another entry came first.
        """
        number = view.last + 1
        intent = replace(intent, stored=self._instant_after(view))
        if not self._create(number, packed_intent(intent), intent, intent.stored):
            return None
        settled = self.settle()
        self._clear_intents(settled)
        outcome = recorded_outcome(self.folder, number)
        if outcome is None:  # the log was cut since, so the files tell
            return intent.adds <= settled.state.files.paths
        # The number may have been another's before, who has made it and deleted its entry.
        return outcome.is_made if outcome.id == intent.id else None

    @contextmanager
    def turn(self, attempt: int) -> Iterator[None]:
        """Queue up with other writers who met too often, and pause a while; it keeps nobody from writing who does not queue."""
        if attempt < _OPTIMISTIC:
            yield
            return
        sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.001 * 2**attempt)))
        with self._locks.exclusive(f"write {self.table}", _PATIENCE):
            yield

    @contextmanager
    def mending(self) -> Iterator[None]:
        """Keep others from mending the table."""
        with self._locks.exclusive(f"mend {self.table}", _PATIENCE) as taken:
            if not taken:
                raise OfflineStoreError(
                    f"{self.table} is being mended by another process for {_PATIENCE:.0f} seconds. Does it hang?"
                )
            yield

    def numbers(self) -> list[int]:
        """Return the numbers of the entries that are there."""
        return list(self._listed(self._current_state().folded))

    def last(self) -> int:
        """Return the greatest number of an entry that there is, or was."""
        state = self._current_state()
        return self._last(state, self._listed(state.folded))

    def pushes_behind(self, view: View) -> list[int]:
        """Return the numbers of the pushes that are in the table's files and were not deleted yet."""
        pushes = []
        for number, entry in view.behind.items():
            with suppress(FileNotFoundError):  # deleted meanwhile
                if isinstance(self._content(number, entry), pl.DataFrame):
                    pushes.append(number)
        return pushes

    def rows_of(self, numbers: Sequence[int]) -> dict[int, pl.DataFrame]:
        """Return the rows of pushes by their numbers, with the hash of the keys.

        Raises:
            FileNotFoundError: one was deleted meanwhile, or is none.
        """
        entries = self._listed(0)
        rows = {}
        for number in numbers:
            content = self._content(number, entries[number]) if number in entries else None
            if not isinstance(content, pl.DataFrame):
                raise FileNotFoundError(f"There is no push {number} of {self.table}, or no longer.")
            rows[number] = content
        return rows

    def exists(self, number: int) -> bool:
        """Return whether the entry of a number is there still."""
        if number <= self._removed:
            return False
        entry = self._entries.get(number)
        if entry is not None and self.folder.head(entry.name) is not None:
            return True
        return number in self._listed(0)

    def instants(self) -> pl.DataFrame:
        """Return the number of each entry that there is or was, and its instant in microseconds, 0 where it is not known."""
        live = {}
        for number, entry in self._listed(0).items():
            with suppress(FileNotFoundError):  # deleted meanwhile: its instant was kept before that
                live[number] = self._known(number, entry).stored
        return self.kept_instants.with_those_of(live)

    def lost(self) -> list[int]:
        """Return the numbers of entries that must be there and are not."""
        missing: set[int] = set()
        # NOTE: twice, for a folder that is written to while it is listed may be told without an entry that is in it.
        for look in range(_LOOKS):
            state = self._current_state()
            there = self._listed(state.folded)
            now = _missing(there, state.folded, self._last(state, there))
            missing = now if not look else missing & now
            if not missing:
                return []
        return sorted(missing - recorded_intents(self.folder))

    def clear(self) -> None:
        """Delete the entries whose rows are in the table's files, and what killed writers have left."""
        state = self._current_state()
        behind = {number: entry for number, entry in self._listed(state.folded).items() if number <= state.folded}
        if behind:
            settle(self.folder, LOG)  # another process may have written the version that has them, and not flushed it yet
            self._delete_behind(behind)
        # One that is at it finds its file gone, and writes it again.
        self.folder.delete(entry.name for entry in self.folder.list(f"{FOLDER}/") if entry.name.endswith(TEMPORARY))

    def rewrite(self, number: int, content: bytes) -> None:
        """Replace what the entry of a number holds, while nobody writes to the table."""
        self.folder.write(self._entries[number].name, content)

    def raw(self) -> dict[int, bytes]:
        """Return what each entry holds, as it was written."""
        return {number: self.folder.read(entry.name) for number, entry in self._listed(0).items()}

    def fill(self, number: int, content: bytes) -> None:
        """Create the entry of a number that is lost."""
        self.folder.create(_entry(number), content)

    def unreadable(self, numbers: Iterable[int]) -> dict[int, str]:
        """Return those of some entries that cannot be read, by their names from the table's folder on."""
        broken = {}
        entries = self._listed(0)
        for number in numbers:
            try:
                if number in entries:
                    self._content(number, entries[number], fresh=True)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except OfflineStoreError:
                broken[number] = entries[number].name
        return broken

    def sync(self) -> None:
        """Have on the disk what others wrote, and may not have flushed yet."""
        if (path := self.folder.address(FOLDER).path) is not None:
            with suppress(FileNotFoundError):  # it went with its last entry
                sync_folder(path)

    def _current_state(self) -> DeltaState:
        state = self._state
        return self._open() if state is None or not state.is_current() else state

    def _open(self) -> DeltaState:
        state = self._state = open_state(self.folder, self._state)
        return state

    def _view(self, state: DeltaState) -> View:
        entries = self._listed(state.folded)
        pushes: dict[int, pl.DataFrame] = {}
        pending: dict[int, Intent] = {}
        behind: dict[int, Entry] = {}
        for number, entry in sorted(entries.items()):
            if number <= state.folded:
                behind[number] = entry
                continue
            content = self._content(number, entry)
            if isinstance(content, pl.DataFrame):
                pushes[number] = content
            elif number > state.applied:
                pending[number] = content
        for gone in self._contents.keys() - entries.keys():
            self._contents.pop(gone, None)
        last = self._last(state, entries)
        return View(state, pushes, pending, last, not _missing(entries, state.folded, last), behind)

    def _create(self, number: int, packed: bytes, content: pl.DataFrame | Intent, stored: int) -> bool:
        require_conditions(self.folder)
        stamp = self.folder.create(_entry(number), packed)
        if stamp is not None:
            self._contents[number] = _Known(stamp, content, stored)
        return stamp is not None

    def _instant_after(self, view: View) -> int:
        """Return the instant of the next entry (S24): no earlier than the former one's, unless that is of a wrong clock."""
        now, known = to_micros(self._clock()), self._contents.get(view.last)
        # A deleted one's change is in the table's files, so the log of the table has its instant, or a later one.
        former = recorded_instant(self.folder, view.state.version) if known is None else known.stored
        return former if now < former <= now + _AHEAD else now

    def _last(self, state: DeltaState, entries: Iterable[int]) -> int:
        return max([state.folded, state.applied, *entries, *self._marks])

    def _listed(self, folded: int) -> dict[int, Entry]:
        """Return the entries that are there by their numbers."""
        for _ in range(2):
            entries: dict[int, Entry] = {}
            marks = []
            for entry in self.folder.list(f"{FOLDER}/"):
                name = entry.name.rpartition("/")[2]
                if match := _ENTRY.fullmatch(name):
                    entries[int(match[1])] = entry
                elif match := _MARK.fullmatch(name):
                    marks.append(int(match[1]))
            self._entries, self._marks = entries, marks
            # One that was created while the folder was listed may be missing before a later one.
            if not _missing(entries, folded, max(entries, default=0)):
                break
        # The first are deleted first.
        self._removed = max(self._removed, min(entries, default=1) - 1)
        return entries

    def _content(self, number: int, entry: Entry, *, fresh: bool = False) -> pl.DataFrame | Intent:
        return self._known(number, entry, fresh=fresh).content

    def _known(self, number: int, entry: Entry, *, fresh: bool = False) -> _Known:
        known = self._contents.get(number)
        if known is None or known.stamp != entry.stamp or fresh:
            try:
                content, stored = unpacked(self.folder.read(entry.name))
                if isinstance(content, pl.DataFrame):
                    content = with_columns_of(self.table, content)
            except (pl.exceptions.PolarsError, ValueError, KeyError) as error:
                raise OfflineStoreError(
                    f"The pushed rows in {self.folder.address(entry.name).url} cannot be read: the file is damaged ({error}). "
                    "Restore it from a backup."
                ) from error
            known = self._contents[number] = _Known(entry.stamp, content, stored)
        return known

    def _clear_intents(self, view: View) -> None:
        """Delete the intents that are carried out and that no push before them keeps."""
        known = self._contents
        intents = {
            number: entry for number, entry in view.behind.items() if number in known and isinstance(known[number].content, Intent)
        }
        self._delete_behind(intents)

    def _delete_behind(self, entries: Mapping[int, Entry]) -> None:
        """Delete entries whose changes are in the table's files, once their instants are kept."""
        stored = {}
        for number, entry in entries.items():
            # Another process has kept its instant and deleted it; or it is damaged, and the table needs it no longer.
            with suppress(FileNotFoundError, OfflineStoreError):
                stored[number] = self._known(number, entry).stored
        self.kept_instants.keep(stored)
        self.folder.delete(entry.name for entry in entries.values())

    def _mark(self, number: int) -> None:
        """Note beside the entries which is the last, where a disk may lose the names of others."""
        if (path := self.folder.address(FOLDER).path) is not None:
            with suppress(FileNotFoundError):  # its entry is in the files already, and went with its folder
                make_mark(path / _mark(number), [path / _mark(former) for former in self._marks if former < number])


def _missing(entries: Mapping[int, Entry], folded: int, last: int) -> set[int]:
    """Return the numbers up to one that have no entry, of those that are not in the table's files."""
    return set(range(folded + 1, last + 1)) - entries.keys()


def _entry(number: int) -> str:
    return f"{FOLDER}/{number:0{_DIGITS}d}.parquet"


def _mark(number: int) -> str:
    return f"{number:0{_DIGITS}d}{MARK}"
