"""The deduplication index: which rows a table and its log already contain.

Files and segments never change, so each is read once by a process: what is kept of it are 64-bit hashes of what tells its
rows apart. A row whose hash is not among them is new; one whose hash is, may be known, and only then its bucket is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from featurestore.clock import from_micros
from featurestore.definitions.window_features import EVENT_ID
from featurestore.identity import loose_text, same_values
from featurestore.instants import INSTANT
from featurestore.offline.base import CORRECTS, Table
from featurestore.offline.delta.files import HASH, event_span, of_keys
from featurestore.offline.delta.table import DeltaState
from featurestore.offline.delta.table_files import File, by_bucket
from featurestore.offline.folder import Folder
from featurestore.rows.buckets import ROOT, key_hash, node_of
from featurestore.rows.total_order import AVAILABLE, EVENT, split_equal, split_former

_ALWAYS, _NEVER = -(1 << 63), (1 << 63) - 1
_SEQ = "_seq"
_NODE = "_node"
_SPARE = 4_000_000
"""How many hashes of rows that are no longer looked for may be kept."""


@dataclass(frozen=True)
class DedupLookup:
    """What is known of some rows.

    Args:
        new: the rows that are in no file and no segment, with ``_corrects``.
        known: the rows that are in a file.
        segments: the numbers of the segments that have the others.
    """

    new: pl.DataFrame
    known: pl.DataFrame
    segments: tuple[int, ...]


class DedupIndex:
    """The hashes of a table's rows, and of its log's. One thread at a time may use it.

    Args:
        folder: the table's folder.
        table: the table.
    """

    def __init__(self, folder: Folder, table: Table) -> None:
        self._folder = folder
        self._table = table
        self._keys, self._features = list(table.keys), list(table.features)
        self._covered: dict[str, int] = {}
        self._runs: list[pl.Series] = []

    def find(self, rows: pl.DataFrame, state: DeltaState, segments: Mapping[int, pl.DataFrame], since: int | None) -> DedupLookup:
        """Return which of some rows are new.

        Args:
            rows: the rows, each once, with the hash of their keys.
            state: the table.
            segments: the segments in its log, by number.
            since: as ``PushLog.append``.
        """
        first, last = event_span(rows)
        self._cover(state, segments, first, last, since)
        maybe = self._maybe(self._hashed(rows, since))
        suspects = rows.filter(maybe) if maybe.any() else rows.clear()
        if suspects.is_empty():
            return DedupLookup(self._marked(rows, [], since), suspects, ())
        pushed = self._pushed_near(suspects, segments)
        stored = self._stored_near(suspects, state, since)
        rest, in_log = split_equal(suspects, pushed, self._keys, self._features)
        rest, in_table = split_equal(rest, stored, self._keys, self._features)
        rest, like_log = split_former(rest, pushed, self._keys, self._features)
        _, like_table = split_former(rest, stored, self._keys, self._features)
        in_log, in_table = pl.concat([in_log, like_log]), pl.concat([in_table, like_table])
        order = [*self._keys, EVENT, AVAILABLE]
        seqs = pushed.join(in_log, on=order, how="semi")[_SEQ].unique().sort().to_list() if in_log.height else []
        new, _ = split_equal(rows, pl.concat([in_log, in_table]), self._keys, self._features)
        return DedupLookup(self._marked(new, [pushed, stored], since), in_table, tuple(seqs))

    def _hashed(self, rows: pl.DataFrame, since: int | None) -> pl.Series:
        # Rows that are alike are alike in these too. For events with ids, so are the versions of one event.
        if since is None:
            return rows.select(key_hash({**self._table.keys, EVENT: INSTANT, AVAILABLE: INSTANT}).fill_null(0)).to_series()
        identified = rows.select(*self._keys, loose_text(pl.col(EVENT_ID)))
        return identified.select(key_hash({**self._table.keys, EVENT_ID: self._table.features[EVENT_ID]}).fill_null(0)).to_series()

    def _marked(self, new: pl.DataFrame, near: list[pl.DataFrame], since: int | None) -> pl.DataFrame:
        """Return rows with ``_corrects``, by the rows near them and by one another."""
        if since is None:
            return new.with_columns(pl.lit(value=False).alias(CORRECTS))
        event = [*self._keys, EVENT_ID]
        marked = new.with_columns(pl.struct(event).is_duplicated().alias(CORRECTS))
        if not near:
            return marked
        others = same_values(pl.concat([frame.select(event) for frame in near]), [EVENT_ID], new).unique()
        others = others.with_columns(pl.lit(value=True).alias(_SEQ))
        joined = marked.join(others, on=event, how="left", maintain_order="left")
        return joined.with_columns(pl.col(CORRECTS) | pl.col(_SEQ).fill_null(value=False)).drop(_SEQ)

    def _pushed_near(self, suspects: pl.DataFrame, segments: Mapping[int, pl.DataFrame]) -> pl.DataFrame:
        keys = suspects.select(self._keys).unique()
        frames = [frame.with_columns(pl.lit(seq, pl.Int64).alias(_SEQ)) for seq, frame in segments.items()]
        return (
            pl.concat(frames).join(keys, on=self._keys, how="semi")
            if frames
            else suspects.clear().with_columns(pl.lit(None, pl.Int64).alias(_SEQ))
        )

    def _stored_near(self, suspects: pl.DataFrame, state: DeltaState, since: int | None) -> pl.DataFrame:
        """Return the rows in the files that share their keys with some rows, and might be them or the same events."""
        columns = [*self._keys, EVENT, AVAILABLE, *self._features]
        if state.bits is None:
            return suspects.clear().select(columns)
        first, last = event_span(suspects)
        nodes = set(suspects.select(node_of(pl.col(HASH), state.bits).alias(_NODE)).to_series())
        nodes = {node >> up for node in nodes for up in range(state.bits + 1)}
        files = [
            file
            for file in _near(state, first, last, since)
            if file.node in nodes and (file.overlaps(first, last) or (since is not None and file.until >= since))
        ]
        where = pl.col(EVENT).is_between(from_micros(first), from_micros(last))
        if since is not None:
            where = where | (pl.col(EVENT).to_physical() >= since)
        where = where & of_keys(suspects, self._table.keys)
        histories = by_bucket(self._folder, self._table, files).values()
        frames = [frame for history in histories for frame in history.read(columns, where)]
        return pl.concat([suspects.clear().select(columns), *frames])

    def _maybe(self, hashes: pl.Series) -> pl.Series:
        possible = pl.repeat(value=False, n=len(hashes), dtype=pl.Boolean, eager=True)
        for run in self._runs:
            places = run.search_sorted(hashes).clip(upper_bound=len(run) - 1)
            possible = possible | (run.gather(places) == hashes)
        return possible

    def _cover(self, state: DeltaState, segments: Mapping[int, pl.DataFrame], first: int, last: int, since: int | None) -> None:
        """Read what might hold rows of a span of event times, and has not been read."""
        near = {file: bound for file in _near(state, first, last, since) if (bound := _bound(file, first, last, since)) < _NEVER}
        rows = sum(file.rows for file in near) + sum(frame.height for frame in segments.values())
        there = state.files.paths, {str(seq) for seq in segments}
        gone = {name for name in self._covered if not any(name in names for names in there)}
        # The rows of files that are gone are in others now: hashes that are kept for nothing do no harm.
        if sum(map(len, self._runs)) > 4 * rows + _SPARE:
            self._covered, self._runs = {}, []
        for path in gone & self._covered.keys():
            del self._covered[path]
        fresh = []
        for seq, frame in segments.items():
            if str(seq) not in self._covered:
                fresh.append(self._hashed(frame, since))
                self._covered[str(seq)] = _ALWAYS
        for file, bound in near.items():
            if bound < self._covered.get(file.path, _NEVER):
                fresh.append(self._hashes_of(file.path, bound, since))
                self._covered[file.path] = bound
        for hashes in fresh:
            if len(hashes):
                self._add(hashes.sort())

    def _hashes_of(self, path: str, bound: int, since: int | None) -> pl.Series:
        columns = [EVENT, AVAILABLE] if since is None else [EVENT, EVENT_ID]
        file = File(path, ROOT, 0, 0, 0, 0)
        [history] = by_bucket(self._folder, self._table, [file]).values()
        [frame] = history.read([*self._keys, *columns])
        if bound > _ALWAYS:
            frame = frame.filter(pl.col(EVENT).to_physical() >= bound)
        return self._hashed(frame, since)

    def _add(self, hashes: pl.Series) -> None:
        """Add sorted hashes; runs of like size are merged, so that there are few and each hash is merged a few times only."""
        while self._runs and len(self._runs[-1]) < 2 * len(hashes):
            hashes = pl.concat([self._runs.pop(), hashes]).sort()
        self._runs.append(hashes)


def _near(state: DeltaState, first: int, last: int, since: int | None) -> Sequence[File]:
    """Return the files that may have rows of a span of event times, or where ``since`` is given of what is not before it."""
    return state.files.overlapping(first if since is None else min(first, since), last if since is None else None)


def _bound(file: File, first: int, last: int, since: int | None) -> int:
    """Return from which event time on a file must be read to know of rows of a span; ``_NEVER`` where it need not."""
    if since is None:
        return _ALWAYS if file.overlaps(first, last) else _NEVER
    if first < since and file.overlaps(first, min(last, since)):
        return _ALWAYS
    return since if file.until >= since else _NEVER
