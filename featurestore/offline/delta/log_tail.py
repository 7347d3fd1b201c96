"""The end of a Delta table's log: what a commit writes there, and what the commits after a version have changed.

Only what this store's own commits hold is read here. Whatever else there is, such as another schema or a file of another program,
is left to the library of Delta, which reads the whole log.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from deltalake.transaction import AddAction

from featurestore.clock import to_micros, utc_now
from featurestore.offline.delta.files import BUCKET
from featurestore.offline.delta.log_entries import HINT, entry_at
from featurestore.offline.delta.sequence_entries import Action
from featurestore.offline.folder import Folder

_MOST = 50
"""So many entries are read one by one at most: a longer end is read faster by opening the table."""
_KNOWN = {"add", "remove", "txn", "commitInfo"}


@dataclass(frozen=True)
class Tail:
    """What the commits after a version have changed.

    Args:
        version: the version of the last one.
        marks: tells its entry from another one of its number, and whether entries were taken out of the log.
        added: the ``add`` actions of the files that are there after them and were not before, by path.
        removed: the paths of files that were there before and are no longer.
        applications: the last version of each application whose version they note.
    """

    version: int
    marks: tuple[str | None, ...]
    added: Mapping[str, Mapping[str, Any]]
    removed: frozenset[str]
    applications: Mapping[str, int]


def packed_entry(actions: Sequence[Action], applications: Mapping[str, int], metadata: Mapping[str, str]) -> bytes:
    """Return the entry of a commit, which differs from that of any other.

    Args:
        actions: the files that it adds and removes.
        applications: the versions of applications that it notes.
        metadata: what else it says of itself.

    Source:
        https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions
    """
    info = {
        "timestamp": to_micros(utc_now()) // 1000,
        "operation": "WRITE",
        "operationParameters": {"mode": "Append", "partitionBy": json.dumps([BUCKET])},
        "engineInfo": "featurestore",
        "txnId": str(uuid4()),
        **metadata,
    }
    lines: list[dict[str, Any]] = [{"commitInfo": info}]
    lines += [{"txn": {"appId": name, "version": version}} for name, version in applications.items()]
    lines += [_line_of(action) for action in actions]
    return "\n".join(json.dumps(line, separators=(",", ":")) for line in lines).encode()


def read_tail(folder: Folder, version: int, marks: Sequence[str | None]) -> Tail | None:
    """Return what the commits after a version have changed.

    Args:
        folder: the table's folder.
        version: the version.
        marks: the marks of that version's entry.

    Returns:
        The changes; None where there are none, too many, or some that only the library knows how to read.
    """
    versions = range(version + 1, version + 1 + _MOST)
    own, hint, *stamps = folder.stamps([entry_at(version), HINT, *map(entry_at, versions)])
    count = next((place for place, stamp in enumerate(stamps) if stamp is None), _MOST)
    if (own, hint) != tuple(marks) or not 0 < count < _MOST:
        return None
    added, removed, applications = dict[str, Mapping[str, Any]](), set[str](), dict[str, int]()
    try:
        lines = [line for number in versions[:count] for line in folder.read(entry_at(number)).splitlines() if line]
        for line in lines:
            [(kind, action)] = json.loads(line).items()
            if kind not in _KNOWN:
                return None
            if kind == "add":
                added[action["path"]] = action
            elif kind == "remove" and added.pop(action["path"], None) is None:
                removed.add(action["path"])
            elif kind == "txn":
                applications[action["appId"]] = int(action["version"])
    except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):  # taken out of the log, or cut off
        return None
    return Tail(version + count, (stamps[count - 1], hint), added, frozenset(removed), applications)


def _line_of(action: Action) -> dict[str, Any]:
    common = {
        "path": action.path,
        "dataChange": action.data_change,
        "partitionValues": action.partition_values,
        "size": action.size,
    }
    if isinstance(action, AddAction):
        return {"add": {**common, "modificationTime": action.modification_time, "stats": action.stats}}
    return {"remove": {**common, "deletionTimestamp": action.deletion_timestamp, "extendedFileMetadata": True}}
