"""The entries of a Delta table's log of commits, as files: which there are, and whether they are whole."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

LOG = "_delta_log"
ROWS = "rows"
"""What a commit says of how many rows the table has after it: a hole before it is found by that."""
_DIGITS = 20
_CHECKPOINT = ".checkpoint.parquet"


def entries_of(folder: Path) -> list[Path]:
    """Returns the entries of a table's log, in their order; what else lies there is none."""
    return sorted(path for path in (folder / LOG).glob("*.json") if len(path.stem) == _DIGITS and path.stem.isdecimal())


def entry_at(folder: Path, version: int) -> Path:
    """Returns where the entry of a version is."""
    return folder / LOG / f"{version:0{_DIGITS}d}.json"


def needed_entries(folder: Path) -> list[Path]:
    """Returns the entries after the newest checkpoint, which has what those before say."""
    names = (path.name.removesuffix(_CHECKPOINT) for path in (folder / LOG).glob(f"*{_CHECKPOINT}") if path.stat().st_size)
    checkpoint = max((int(name) for name in names if len(name) == _DIGITS and name.isdecimal()), default=-1)
    return [path for path in entries_of(folder) if int(path.stem) > checkpoint]


def broken_entries(folder: Path) -> list[str]:
    """Returns what is wrong with the entries that are needed: those that are empty, cut off, or not there between others."""
    problems, before = list[str](), None
    for path in needed_entries(folder):
        number = int(path.stem)
        if before is not None and number != before + 1:
            problems.append(f"the entry {entry_at(folder, before + 1)} of its log is gone")
        before = number
        with suppress(FileNotFoundError):  # somebody cleaned the log up
            if not is_whole(path):
                problems.append(f"the entry {path} of its log is empty or cut off")
    return problems


def is_whole(entry: Path) -> bool:
    """Tells whether an entry can be read to its end."""
    try:
        lines = entry.read_text(encoding="utf-8").splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False


def recorded_rows(folder: Path, version: int) -> int | None:
    """Returns how many rows a table has, as the entry of a version says; None where that is not said or no longer there."""
    rows = _info(folder, version).get(ROWS)
    return None if rows is None else int(rows)


def recorded_run(folder: Path, version: int) -> int:
    """Returns the run whose commit the entry of a version is; 0 where it is none."""
    return int(_info(folder, version).get("run", 0))


def _info(folder: Path, version: int) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError), entry_at(folder, version).open(encoding="utf-8") as lines:
        for line in lines:
            if (told := json.loads(line).get("commitInfo")) is not None:
                return dict(told)
    return {}
