"""The log entries of a Delta table, as files: which exist, and whether they are complete.

On a disk a power cut may leave entries and checkpoints empty or cut off, for the library that writes them does not flush them. In
object storage a file appears whole, so none is read to see whether it is.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.durable import make_folders, move
from featurestore.offline.folder import Entry, Folder, is_local

LOG = "_delta_log"
ASIDE = "_damaged"
"""The folder beside the table for files that cannot be read, kept for inspection."""
ROWS = "rows"
"""What a commit says of how many rows the table has after it: a hole before it is found by that."""
ADDED = "added"
"""The commit's entry for how many rows a run added; the process that completes the run later books them."""
ENTRY = "entry"
"""The number of the sequence's entry whose intent a commit makes."""
INTENT = "intent"
"""The id of that intent."""
STORED = "stored"
"""The instant of the entry that a commit makes, in microseconds."""
VOID = "void"
"""Whether an intent is not made, for a file is gone that it removes; its commit changes no file then."""
_DIGITS = 20
_CHECKPOINT = ".checkpoint.parquet"
_ENTRY = ".json"
HINT = f"{LOG}/_last_checkpoint"
"""The file that points readers to a checkpoint."""
_LOOKS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of an intent of the sequence.

    Args:
        id: the intent's.
        is_made: whether its files were changed; if not, they never will be.
    """

    id: str
    is_made: bool


@dataclass(frozen=True)
class LogFiles:
    """The files of a table's log.

    Args:
        entries: the entries, by version and in their order; what else lies there is none.
        checkpoints: the checkpoints that are not empty, by version.
        hinted: the version of the checkpoint that readers are to begin with, as it is said there; -1 if none is named.
        others: whatever else lies there.
    """

    entries: dict[int, Entry]
    checkpoints: dict[int, Entry]
    hinted: int
    others: tuple[Entry, ...] = ()

    @property
    def newest(self) -> int:
        """The version of the newest checkpoint that is not empty; -1 where there is none."""
        return max(self.checkpoints, default=-1)

    @property
    def needed(self) -> list[int]:
        """The versions of the entries after the newest checkpoint, which has what those before say."""
        return [version for version in self.entries if version > self.newest]


def log_files(folder: Folder) -> LogFiles:
    """Return the files of a table's log."""
    hinted = hinted_checkpoint(folder)  # first: it is written after the checkpoint, and moves before an older one goes
    entries, checkpoints, others = dict[int, Entry](), dict[int, Entry](), list[Entry]()
    for file in folder.list(f"{LOG}/"):
        stem, _, ending = file.name.removeprefix(f"{LOG}/").partition(".")
        is_version = len(stem) == _DIGITS and stem.isdecimal()
        if is_version and f".{ending}" == _ENTRY:
            entries[int(stem)] = file
        elif is_version and f".{ending}" == _CHECKPOINT:
            if file.size:
                checkpoints[int(stem)] = file
        else:
            others.append(file)
    return LogFiles(entries, checkpoints, hinted, tuple(others))


def entry_at(version: int) -> str:
    """Return where the entry of a version is, from the table's folder on."""
    return f"{LOG}/{version:0{_DIGITS}d}{_ENTRY}"


def checkpoint_at(version: int) -> str:
    """Return where the checkpoint of a version is."""
    return f"{LOG}/{version:0{_DIGITS}d}{_CHECKPOINT}"


def marks_of(folder: Folder, version: int) -> tuple[str | None, ...]:
    """Return what tells the entry of a version from another one of its number, whether entries were taken out, what follows it."""
    return tuple(folder.stamps([entry_at(version), HINT, entry_at(version + 1)]))


def hinted_checkpoint(folder: Folder) -> int:
    """Return the version of the checkpoint that the log points readers to; -1 if it names none."""
    try:
        return int(json.loads(folder.read(HINT))["version"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # a power cut may leave one that says nothing; it is passed over
        return -1


def broken_checkpoint(folder: Folder, files: LogFiles, *, pages: bool = False) -> str | None:
    """Return the checkpoint that a reader begins with, where it is gone or cannot be read; ``pages`` looks at all of it."""
    if files.newest < files.hinted:
        return checkpoint_at(files.hinted)
    name = checkpoint_at(files.newest)
    with suppress(FileNotFoundError):  # a newer one was written
        if files.newest >= 0 and (pages or is_local(folder)) and not is_readable(folder, name, pages=pages):
            return name
    return None


def broken_entries(folder: Folder, *, pages: bool = False) -> list[str]:
    """Return what is wrong with the log: its checkpoint, and entries that are needed and are empty, cut off, or not there.

    Args:
        folder: the table's folder.
        pages: look at all of the checkpoint, not at its end alone.
    """
    problems: list[str] = []
    for _ in range(_LOOKS):
        # NOTE: again, for a log that is tidied or written to while it is listed may seem to have a hole.
        problems = _problems(folder, log_files(folder), pages=pages)
        if not problems:
            break
    return problems


def _problems(folder: Folder, files: LogFiles, *, pages: bool) -> list[str]:
    place = f"{folder.address().url}/"
    if (checkpoint := broken_checkpoint(folder, files, pages=pages)) is not None:
        return [f"the checkpoint {place}{checkpoint} of its log is gone or cannot be read"]
    problems, before = list[str](), files.newest
    for version in files.needed:
        if version > before + 1:
            problems.append(f"the entry {place}{entry_at(before + 1)} of its log is gone")
        before = version
        with suppress(FileNotFoundError):  # somebody cleaned the log up
            if is_local(folder) and not is_whole(folder, version):
                problems.append(f"the entry {place}{entry_at(version)} of its log is empty or cut off")
    return problems


def put_aside(folder: Folder, names: Iterable[str]) -> None:
    """Move files that cannot be read out of a table's way, into a folder where they can be inspected."""
    for name in names:
        target = f"{ASIDE}/{name.rpartition('/')[2]}.{uuid4().hex[:8]}"
        path, target_path = folder.address(name).path, folder.address(target).path
        with suppress(FileNotFoundError):
            if path is not None and target_path is not None:  # as it is: it may not be readable, and the disk may be full
                make_folders(target_path.parent)
                move(path, target_path)
            else:
                folder.write(target, folder.read(name))
                folder.delete([name], lasting=True)


def put_checkpoint_aside(folder: Folder, *, pages: bool) -> LogFiles:
    """Move checkpoints out of the way that cannot be read, and what points to them; return the files that are left."""
    files = log_files(folder)
    while (checkpoint := broken_checkpoint(folder, files, pages=pages)) is not None:
        put_aside(folder, [HINT, checkpoint])
        files = log_files(folder)
    return files


def drop_lost_checkpoint(folder: Folder) -> bool:
    """Move a checkpoint out of the way that cannot be read, if all entries that it stands for are there; return whether it did.

    A power cut leaves such a one: the library flushes neither it nor what points readers to it.
    """
    files = log_files(folder)
    if (checkpoint := broken_checkpoint(folder, files, pages=True)) is None:
        return False
    version = max(files.newest, files.hinted)
    before = max((older for older in files.checkpoints if older < version), default=-1)
    entries = [number for number in files.entries if number > before]
    if entries != list(range(before + 1, before + 1 + len(entries))) or before + len(entries) < version:
        return False
    try:
        if not all(is_whole(folder, number) for number in entries):
            return False
        put_aside(folder, [HINT, checkpoint])
    except OSError:  # another process clears up, or this one may not write
        return False
    return True


def is_readable(folder: Folder, name: str, *, pages: bool = False) -> bool:
    """Return whether a Parquet file can be read: its footer, and all its pages if these are asked for.

    Raises:
        FileNotFoundError: it is gone.
    """
    path = folder.address(name).path
    try:
        with pq.ParquetFile(BytesIO(folder.read(name)) if path is None else path) as file:
            for group in range(file.num_row_groups if pages else 0):
                file.read_row_group(group)
    except FileNotFoundError:
        raise
    except pa.ArrowException:
        return False
    except OSError:
        if path is None:
            raise
        return False
    return True


def is_whole(folder: Folder, version: int) -> bool:
    """Return whether an entry can be read to its end."""
    try:
        lines = folder.read(entry_at(version)).decode().splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False


def recorded_rows(folder: Folder, version: int) -> int | None:
    """Return how many rows a table has, as the entry of a version says; None where that is not said or no longer there."""
    rows = _info(folder, version).get(ROWS)
    return None if rows is None else int(rows)


def recorded_run(folder: Folder, version: int) -> int:
    """Return the run whose commit the entry of a version is; 0 where it is none."""
    return int(_info(folder, version).get("run", 0))


def recorded_added(folder: Folder, run: int) -> int:
    """Return how many rows a run that was committed has added; 0 where its entry is no longer in the log, or do not say."""
    for version in reversed(log_files(folder).entries):
        info = _info(folder, version)
        if ADDED in info and int(info["run"]) <= run:
            return int(info[ADDED]) if int(info["run"]) == run else 0
    return 0


def recorded_outcome(folder: Folder, number: int) -> Outcome | None:
    """Return what became of the intent of an entry of the sequence; None where the log no longer says it."""
    for version in reversed(log_files(folder).entries):
        info = _info(folder, version)
        if ENTRY in info and int(info[ENTRY]) <= number:
            return Outcome(str(info[INTENT]), VOID not in info) if int(info[ENTRY]) == number else None
    return None


def recorded_instant(folder: Folder, version: int) -> int:
    """Return the instant of the last intent that a version or one of those right before it has made; 0 where none says it."""
    infos = (_info(folder, older) for older in range(version, max(-1, version - _LOOKS), -1))
    return next((int(info[STORED]) for info in infos if STORED in info), 0)


def recorded_intents(folder: Folder) -> set[int]:
    """Return the numbers of the sequence's entries that were intents, as far as the log goes back."""
    infos = (_info(folder, version) for version in log_files(folder).entries)
    return {int(info[ENTRY]) for info in infos if ENTRY in info}


def _info(folder: Folder, version: int) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError):
        for line in folder.read(entry_at(version)).splitlines():
            if (info := json.loads(line).get("commitInfo")) is not None:
                return dict(info)
    return {}
