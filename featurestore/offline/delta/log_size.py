"""How much a Delta table holds, from its log alone: the standard library reads it, which saves a command the engines' start.

NOTE: neither this module nor what it imports loads Polars, deltalake or PyArrow. What it does not expect it leaves to the store.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from featurestore.clock import to_micros
from featurestore.durable import TEMPORARY
from featurestore.given_paths import folder_path
from featurestore.offline.history_size import HistorySize, HistorySizes

_LOG, _PUSHED = "_delta_log", "_pushed"
_MARK, _HINT = ".last", "_last_checkpoint"
_NUMBER, _VERSION = 16, 20
"""How many digits the names of pushed segments begin with, and those of the log's entries."""
MOST_ACTIONS = 10_000
"""So many actions are read, of all tables together: a tenth of a second. The engines take half a second to start, and then read a
checkpoint of any length."""
_MAGIC = b"PAR1"
_OWN = "run-"
"""How the names of files begin that are written here."""


class _Unknown(Exception):  # noqa: N818 - it is no error: the store is asked instead
    """What lies there is not what this module knows."""


class DeltaSizes(HistorySizes):
    """Read how much the tables in a folder hold.

    Args:
        folder: where the tables lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._actions = 0

    @classmethod
    def open(cls, url: str, root: Path) -> "DeltaSizes":
        """See ``HistorySizes.open``."""
        return cls(folder_path(url, root))

    def size(self, project: str, view: str, data_version: int) -> HistorySize | None:
        """See ``HistorySizes.size``."""
        folder = self._folder / project / view / f"v{data_version}"
        # Whatever cannot be read here, the store reads, or says what is wrong with it.
        with suppress(_Unknown, OSError, ValueError, LookupError, TypeError, AttributeError):
            # NOTE: the pushed segments first. A commit takes them over before they go, so what is gone by now the log has.
            waiting = list(_segments(folder / _PUSHED))
            table = _Table.read(folder / _LOG, MOST_ACTIONS - self._actions)
            self._actions += table.actions
            if all(number <= table.folded for number in waiting):
                return table.size()
        return None


class _Table:
    """A table as the entries of its log make it, one after the other."""

    def __init__(self) -> None:
        self.actions = 0
        self.folded = 0
        self._files: dict[str, tuple[int, str]] = {}
        self._recorded: int | None = None

    @classmethod
    def read(cls, log: Path, most: int) -> "_Table":
        """Return the table that a log of at most so many actions makes; an empty one where there is no log."""
        table = cls()
        for entry in _entries(log):
            lines = entry.read_text(encoding="utf-8").splitlines()
            table.actions += len(lines)
            if not lines or table.actions > most:
                raise _Unknown
            for line in lines:
                table._take(json.loads(line))
        return table

    def size(self) -> HistorySize:
        """Return how much it holds."""
        rows = sum(count for count, _ in self._files.values())
        if self._recorded not in (None, rows):  # a commit says how many rows there are after it
            raise _Unknown
        return HistorySize(rows, max((to_micros(datetime.fromisoformat(until)) for _, until in self._files.values()), default=None))

    def _take(self, action: Mapping[str, Any]) -> None:
        [(kind, body)] = action.items()
        if kind == "add":
            stats = json.loads(body["stats"])
            if body.get("deletionVector") is not None or not Path(body["path"]).name.startswith(_OWN):  # others cut times off
                raise _Unknown
            self._files[body["path"]] = stats["numRecords"], stats["maxValues"]["event_time"]
        elif kind == "remove":
            del self._files[body["path"]]
        elif kind == "txn" and body["appId"] == "pushed":
            self.folded = body["version"]
        elif kind == "commitInfo":
            self._recorded = int(body["rows"]) if "rows" in body else None


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def _segments(folder: Path) -> Iterable[int]:
    """Yield the numbers of the pushed segments that lie in a folder, be they in the table already or not."""
    for name in _names(folder):
        if not name.endswith((_MARK, TEMPORARY)):
            yield int(name[:_NUMBER])


def _entries(log: Path) -> list[Path]:
    """Return all entries of a log, from the first version on, where it has all of them still."""
    names = _names(log)
    versions = sorted(name for name in names if name.endswith(".json") and len(name) == _VERSION + len(".json"))
    if [int(name[:_VERSION]) for name in versions] != list(range(len(versions))) or (names and not versions):
        raise _Unknown
    # The entries say it all, but the store begins with a checkpoint, and says so where that is damaged.
    checkpoints = [name for name in names if name.endswith(".checkpoint.parquet")]
    if _HINT in names:
        checkpoints.append(f"{json.loads((log / _HINT).read_text(encoding='utf-8'))['version']:0{_VERSION}d}.checkpoint.parquet")
    if not all(_is_whole(log / name) for name in checkpoints):
        raise _Unknown
    return [log / name for name in versions]


def _is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint begins and ends as its format says: one that was cut off does not."""
    with checkpoint.open("rb") as file:
        first = file.read(len(_MAGIC))
        file.seek(-len(_MAGIC), os.SEEK_END)
        return first == file.read() == _MAGIC
