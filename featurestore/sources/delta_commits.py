"""What the commits of a Delta table did to its files, as its log tells."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Files that one commit wrote of others without changing a row (``dataChange`` is false): the rows of a partition."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a version did.

    Args:
        version: its number.
        operation: what its writer calls it, such as ``DELETE``.
        rewritten: what it compacted.
        takes_rows: whether it took files with rows away, or rows out of them.
    """

    version: int
    operation: str
    rewritten: tuple[Rewritten, ...]
    takes_rows: bool


def commits_since(table: DeltaTable, since: int, until: int) -> list[Commit] | None:
    """Returns the commits after a version, up to another; None where the log does not reach back so far.

    Raises:
        OSError: the log cannot be read.
    """
    files = pafs.PyFileSystem(DeltaStorageHandler.from_table(table._table))
    commits = []
    for version in range(since + 1, until + 1):
        try:
            text = files.open_input_file(f"_delta_log/{version:020}.json").read()
        except FileNotFoundError:
            return None
        commits.append(_commit(version, [json.loads(line) for line in text.splitlines() if line.strip()]))
    return commits


def _commit(version: int, actions: Iterable[dict[str, Any]]) -> Commit:
    added: dict[str, list[str]] = {}
    removed: dict[str, list[str]] = {}
    operation, takes_rows = "?", False
    for action in actions:
        add, remove = action.get("add"), action.get("remove")
        operation = action.get("commitInfo", {}).get("operation", operation)
        takes_rows = takes_rows or bool(remove and remove.get("dataChange", True))
        for told, into in ((add, added), (remove, removed)):
            if told and not told.get("dataChange", True):
                partition = json.dumps(told.get("partitionValues") or {}, sort_keys=True)
                into.setdefault(partition, []).append(unquote(told["path"]))
    rewritten = [Rewritten(tuple(names), tuple(removed.get(partition, ()))) for partition, names in added.items()]
    return Commit(version, operation, tuple(each for each in rewritten if each.removed), takes_rows)
