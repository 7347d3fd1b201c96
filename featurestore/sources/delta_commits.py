"""Commits of a Delta table: which files they added and removed."""

import json
from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Pool:
    """Files that hold the rows of others, after one or several compactions.

    Args:
        files: the names of those after the last of these.
        sources: for the names of those before, the last version that has them.
    """

    files: frozenset[str]
    sources: Mapping[str, int]


def pooled(pools: Sequence[Pool], group: Rewritten, version: int) -> list[Pool]:
    """Return pools after a further compaction.

    Args:
        pools: the pools before.
        group: what it did.
        version: the version before it.

    Example:
        >>> first = pooled([], Rewritten(("c",), ("a", "b")), 1)
        >>> pooled(first, Rewritten(("e",), ("c", "d")), 3)
        [Pool(files=frozenset({'e'}), sources={'a': 1, 'b': 1, 'd': 3})]
    """
    removed = set(group.removed)
    met = [pool for pool in pools if pool.files & removed]
    files = frozenset({*group.added, *(name for pool in met for name in pool.files - removed)})
    sources = {name: at for pool in met for name, at in pool.sources.items()}
    added_files = {name for pool in met for name in pool.files}
    sources |= {name: version for name in group.removed if name not in added_files}
    return [*(pool for pool in pools if not pool.files & removed), Pool(files, sources)]


def commits_since(table: DeltaTable, since: int, until: int) -> list[Commit] | None:
    """Return the commits after a version, up to another; None where the log does not reach back so far.

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
    actions = list(actions)
    # A writer need not say of what partition a file was that it takes away: then all may be of all.
    apart = all((action["remove"].get("partitionValues") is not None) for action in actions if "remove" in action)
    for action in actions:
        add, remove = action.get("add"), action.get("remove")
        operation = action.get("commitInfo", {}).get("operation", operation)
        takes_rows = takes_rows or bool(remove and remove.get("dataChange", True))
        for file_action, into in ((add, added), (remove, removed)):
            if file_action and not file_action.get("dataChange", True):
                partition = json.dumps((apart and file_action.get("partitionValues")) or {}, sort_keys=True)
                into.setdefault(partition, []).append(unquote(file_action["path"]))
    rewritten = [Rewritten(tuple(names), tuple(removed.get(partition, ()))) for partition, names in added.items()]
    return Commit(version, operation, tuple(group for group in rewritten if group.removed), takes_rows)
