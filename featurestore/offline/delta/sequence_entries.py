"""What an entry of a table's sequence holds: the rows of a push, or an intent to change which files the table has.

Every entry is a Parquet file. An intent has a row for each file that it adds or removes. What else is to be said of an entry
stands in the file's metadata under ``featurestore``, as JSON.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any, Literal
from uuid import uuid4

import polars as pl
from deltalake.transaction import AddAction, RemoveAction

from featurestore.clock import from_micros, to_micros
from featurestore.offline.base import CORRECTS
from featurestore.offline.delta.files import BUCKET, COMPRESSION

Action = AddAction | RemoveAction
Reason = Literal["run", "compact", "forget"]

_HEAD = "featurestore"
_ACTIONS = {
    "path": pl.String(), "adds": pl.Boolean(), "bucket": pl.Int64(), "size": pl.Int64(), "time": pl.Int64(),
    "changes": pl.Boolean(), "stats": pl.String(),
}  # fmt: skip


@dataclass(frozen=True)
class Intent:
    """What a commit is to change: claimed by an entry of the sequence, and made by the next writer.

    It was computed from all entries before its own, so it is made as it is, or not at all where a file is gone that it removes.

    Args:
        reason: what the change is for.
        actions: the files that it adds and removes.
        pushed: the greatest push whose rows are in the files then; None where it is as before.
        run: the run that is done then; None where it is as before.
        added: how many rows a run's own commit adds; None for another change.
        id: tells it from others.
        stored: the instant of its entry, in microseconds; 0 before it has one.
    """

    reason: Reason
    actions: Sequence[Action]
    pushed: int | None = None
    run: int | None = None
    added: int | None = None
    id: str = field(default_factory=lambda: uuid4().hex)
    stored: int = 0

    @property
    def adds(self) -> frozenset[str]:
        """The files that it adds."""
        return frozenset(action.path for action in self.actions if isinstance(action, AddAction))

    @property
    def removes(self) -> frozenset[str]:
        """The files that it removes."""
        return frozenset(action.path for action in self.actions if isinstance(action, RemoveAction))


def packed_push(rows: pl.DataFrame, stored: int) -> bytes:
    """Return the entry of a push.

    Args:
        rows: the table's columns, the hash of the keys, sorted by it, and whether each corrects an event.
        stored: the entry's instant (S24), in microseconds.
    """
    return _packed(rows, {"kind": "push", "id": uuid4().hex, "instant": from_micros(stored).isoformat()})


def packed_intent(intent: Intent) -> bytes:
    """Return the entry of an intent."""
    head = {
        "kind": intent.reason, "id": intent.id, "instant": from_micros(intent.stored).isoformat(),
        "run": intent.run, "added": intent.added, "pushed": intent.pushed,
    }  # fmt: skip
    return _packed(pl.DataFrame([_row_of(action) for action in intent.actions], schema=_ACTIONS, orient="row"), head)


def unpacked(content: bytes) -> tuple[pl.DataFrame | Intent, int]:
    """Return what an entry holds, the rows of a push as they were packed or an intent, and its instant in microseconds.

    Raises:
        PolarsError: it is damaged.
    """
    head = _head_of(content)
    rows = pl.read_parquet(io.BytesIO(content))
    stored = to_micros(datetime.fromisoformat(head["instant"])) if "instant" in head else 0
    if head.get("kind", "push") == "push":
        return rows, stored
    actions = [_action_of(row) for row in rows.iter_rows(named=True)]
    return Intent(head["kind"], actions, head["pushed"], head["run"], head["added"], head["id"], stored), stored


def without_rows(content: bytes, kept: pl.DataFrame) -> bytes:
    """Return the entry of a push with fewer rows, and all else as it was."""
    return _packed(kept, _head_of(content))


def empty_push(schema: Mapping[str, pl.DataType]) -> bytes:
    """Return the entry of a push without rows, for one that is lost; ``schema`` has the table's columns and the hash."""
    return _packed(pl.DataFrame(schema={**schema, CORRECTS: pl.Boolean()}), {"kind": "push", "id": uuid4().hex})


def _packed(rows: pl.DataFrame, head: dict[str, Any]) -> bytes:
    metadata = {_HEAD: json.dumps(head)}
    return _filled(lambda file: rows.write_parquet(file, compression=COMPRESSION, statistics=False, metadata=metadata))


def _filled(fill: Callable[[IO[bytes]], object]) -> bytes:
    file = io.BytesIO()
    fill(file)
    return file.getvalue()


def _head_of(content: bytes) -> dict[str, Any]:
    """Return what an entry says of itself; nothing in those that the version before wrote, which are pushes."""
    text = pl.read_parquet_metadata(io.BytesIO(content)).get(_HEAD)
    return {} if text is None else dict(json.loads(text))


def _row_of(action: Action) -> tuple[Any, ...]:
    bucket = (action.partition_values or {}).get(BUCKET)
    node = None if bucket is None else int(bucket)
    if isinstance(action, AddAction):
        return action.path, True, node, action.size, action.modification_time, action.data_change, action.stats
    return action.path, False, node, action.size, action.deletion_timestamp, action.data_change, None


def _action_of(row: dict[str, Any]) -> Action:
    values = {} if row["bucket"] is None else {BUCKET: str(row["bucket"])}
    if row["adds"]:
        return AddAction(row["path"], row["size"], dict(values), row["time"], row["changes"], row["stats"])
    return RemoveAction(row["path"], row["changes"], row["time"], row["size"], dict(values))
