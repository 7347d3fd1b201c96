"""The log entries of a Delta table, as files: which exist, and whether they are complete."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.durable import make_folders, move

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
VOID = "void"
"""Whether an intent is not made, for a file is gone that it removes; its commit changes no file then."""
_DIGITS = 20
_CHECKPOINT = ".checkpoint.parquet"
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


def entries_of(folder: Path) -> list[Path]:
    """Return the entries of a table's log, in their order; what else lies there is none."""
    return sorted(path for path in (folder / LOG).glob("*.json") if len(path.stem) == _DIGITS and path.stem.isdecimal())


def entry_at(folder: Path, version: int) -> Path:
    """Return where the entry of a version is."""
    return folder / LOG / f"{version:0{_DIGITS}d}.json"


def checkpoint_at(folder: Path, version: int) -> Path:
    """Return where the checkpoint of a version is."""
    return folder / LOG / f"{version:0{_DIGITS}d}{_CHECKPOINT}"


def hint_of(folder: Path) -> Path:
    """Return where it is said which checkpoint readers are to begin with."""
    return folder / LOG / "_last_checkpoint"


def hinted_checkpoint(folder: Path) -> int:
    """Return the version of the checkpoint that the log points readers to; -1 if it names none."""
    try:
        return int(json.loads(hint_of(folder).read_text(encoding="utf-8"))["version"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # a power cut may leave one that says nothing; it is passed over
        return -1


def newest_checkpoint(folder: Path) -> int:
    """Return the version of the newest checkpoint that is not empty; -1 where there is none."""
    names = [path.name.removesuffix(_CHECKPOINT) for path in (folder / LOG).glob(f"*{_CHECKPOINT}") if _has_bytes(path)]
    return max((int(name) for name in names if len(name) == _DIGITS and name.isdecimal()), default=-1)


def broken_checkpoint(folder: Path, *, pages: bool = False) -> Path | None:
    """Return the checkpoint that a reader begins with, where it is gone or cannot be read; ``pages`` looks at all of it."""
    hinted = hinted_checkpoint(folder)  # first: it is written after the checkpoint, and moves before an older one goes
    newest = newest_checkpoint(folder)
    if newest < hinted:
        return checkpoint_at(folder, hinted)
    with suppress(FileNotFoundError):  # a newer one was written
        if newest >= 0 and not is_readable(checkpoint_at(folder, newest), pages=pages):
            return checkpoint_at(folder, newest)
    return None


def needed_entries(folder: Path) -> list[Path]:
    """Return the entries after the newest checkpoint, which has what those before say."""
    checkpoint = newest_checkpoint(folder)
    return [path for path in entries_of(folder) if int(path.stem) > checkpoint]


def broken_entries(folder: Path, *, pages: bool = False) -> list[str]:
    """Return what is wrong with the log: its checkpoint, and entries that are needed and are empty, cut off, or not there.

    Args:
        folder: the table's folder.
        pages: look at all of the checkpoint, not at its end alone.
    """
    if (checkpoint := broken_checkpoint(folder, pages=pages)) is not None:
        return [f"the checkpoint {checkpoint} of its log is gone or cannot be read"]
    problems, before = list[str](), _begins_after(folder)
    for path in needed_entries(folder):
        number = int(path.stem)
        if before is not None and number > before + 1:
            problems.append(f"the entry {entry_at(folder, before + 1)} of its log is gone")
        before = number
        with suppress(FileNotFoundError):  # somebody cleaned the log up
            if not is_whole(path):
                problems.append(f"the entry {path} of its log is empty or cut off")
    return problems


def put_aside(folder: Path, paths: Sequence[Path]) -> None:
    """Move files that cannot be read out of a table's way, into a folder where they can be inspected."""
    for path in paths:
        make_folders(folder / ASIDE)
        move(path, folder / ASIDE / f"{path.name}.{uuid4().hex[:8]}")


def is_readable(path: Path, *, pages: bool = False) -> bool:
    """Return whether a Parquet file can be read: its footer, and all its pages if these are asked for.

    Raises:
        FileNotFoundError: it is gone.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups if pages else 0):
                file.read_row_group(group)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError):
        return False
    return True


def is_whole(entry: Path) -> bool:
    """Return whether an entry can be read to its end."""
    try:
        lines = entry.read_text(encoding="utf-8").splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False


def recorded_rows(folder: Path, version: int) -> int | None:
    """Return how many rows a table has, as the entry of a version says; None where that is not said or no longer there."""
    rows = _info(folder, version).get(ROWS)
    return None if rows is None else int(rows)


def recorded_run(folder: Path, version: int) -> int:
    """Return the run whose commit the entry of a version is; 0 where it is none."""
    return int(_info(folder, version).get("run", 0))


def recorded_added(folder: Path, run: int) -> int:
    """Return how many rows a run that was committed has added; 0 where its entry is no longer in the log, or do not say."""
    for entry in reversed(entries_of(folder)):
        info = _info(folder, int(entry.stem))
        if ADDED in info and int(info["run"]) <= run:
            return int(info[ADDED]) if int(info["run"]) == run else 0
    return 0


def recorded_outcome(folder: Path, number: int) -> Outcome | None:
    """Return what became of the intent of an entry of the sequence; None where the log no longer says it."""
    for path in reversed(entries_of(folder)):
        info = _info(folder, int(path.stem))
        if ENTRY in info and int(info[ENTRY]) <= number:
            return Outcome(str(info[INTENT]), VOID not in info) if int(info[ENTRY]) == number else None
    return None


def recorded_intents(folder: Path) -> set[int]:
    """Return the numbers of the sequence's entries that were intents, as far as the log goes back."""
    infos = (_info(folder, int(path.stem)) for path in entries_of(folder))
    return {int(info[ENTRY]) for info in infos if ENTRY in info}


def _begins_after(folder: Path) -> int | None:
    """Return after which version the entries that are needed begin; None where the log is tidied at this moment."""
    for _ in range(_LOOKS):
        checkpoint = newest_checkpoint(folder)
        first = next((int(path.stem) for path in needed_entries(folder)), checkpoint + 1)
        if first == checkpoint + 1 or checkpoint == newest_checkpoint(folder):
            return checkpoint
    return None


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _info(folder: Path, version: int) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError), entry_at(folder, version).open(encoding="utf-8") as lines:
        for line in lines:
            if (info := json.loads(line).get("commitInfo")) is not None:
                return dict(info)
    return {}
