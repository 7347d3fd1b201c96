"""Compaction: chooses the files of a table that are worth merging, and merges them.

Files are merged with others of like size, so that a row is rewritten only a few times, however many small runs follow one
another, and the number of files grows with the logarithm of that of the rows. Small ones, wherever they lie, are merged first,
and go the deeper into the tree of buckets the more they are together. Large ones are merged within their bucket.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from featurestore.offline.base import Table
from featurestore.offline.delta.files import DeltaFiles, NewFile, columns_of, run_of, write_file
from featurestore.offline.delta.table_files import File
from featurestore.offline.folder import Folder
from featurestore.rows.buckets import are_related, bits_of, bits_worth, rows_per_file
from featurestore.rows.total_order import COMMIT, merge_files
from featurestore.rows.widths import COPIES, width_of

_SMALL_FILES = 8
"""So many small files are worth being merged, if they become half as many by it."""
_SMALL_RATIO = 2
_LARGE_RATIO = 4
"""A file is merged with smaller ones if it has at most so many times the rows they have together."""


@dataclass(frozen=True)
class Group:
    """Files that are to be merged.

    Args:
        files: the files.
        bits: how deep their rows are to lie.
    """

    files: Sequence[File]
    bits: int


def worth_merging(files: Sequence[File], done: int, *, is_local: bool = True) -> Group | None:
    """Return files of a table that are to be merged with one another; None where nothing is worth it.

    Args:
        files: the table's files.
        done: the greatest run whose files may be merged.
        is_local: whether they are on a disk; in object storage each costs a request, so they are larger.
    """
    bits = max((bits_of(file.node) for file in files), default=0)
    per_file = rows_per_file(sum(file.rows for file in files), bits, is_local=is_local)
    small, large = [], dict[int, list[File]]()
    for file in files:
        if run_of(file.path) > done:
            continue
        if bits_of(file.node) < bits or file.rows < per_file:
            small.append(file)
        else:
            large.setdefault(file.node, []).append(file)
    for group in _of_like_size(small, _SMALL_RATIO):
        depth = bits_worth(sum(file.rows for file in group), bits, per_file)
        if len(group) >= max(_SMALL_FILES, 2 << depth):
            return Group(group, depth)
    groups = (group for _, members in sorted(large.items()) for group in _of_like_size(members, _LARGE_RATIO))
    return next((Group(group, bits) for group in groups), None)


@dataclass(frozen=True)
class CompactTask:
    """Write the rows of some files into fewer ones, a node after the other, on whichever machine: see ``Task``.

    Args:
        folder: the table's folder.
        table: the table.
        group: the files.
        now: the present in milliseconds.
        without: takes rows out that nobody may write any more.
        nodes: which nodes of the files' rows.
        rows: about how many rows these have.
    """

    folder: Folder
    table: Table
    group: Group
    now: int
    without: Callable[[pl.DataFrame], pl.DataFrame] | None
    nodes: tuple[int, ...]
    rows: int

    @classmethod
    def of(
        cls, folder: Folder, table: Table, group: Group, now: int, without: Callable[[pl.DataFrame], pl.DataFrame] | None
    ) -> "CompactTask":
        """Return the task of a whole group."""
        nodes = sorted({child for file in group.files for child in _nodes(file, group.bits)})
        rows = sum(file.rows for file in group.files)
        return cls(folder, replace(table, spec=None), group, now, without, tuple(nodes), rows)

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes: a node after the other is in it."""
        return COPIES * width_of(columns_of(self.table).values()) * self.rows // len(self.nodes)

    def run(self, written: list[NewFile] | None = None) -> list[NewFile]:
        """Return the files written.

        Args:
            written: takes in each file as it is written, so that a caller knows of them where it fails.
        """
        taken = [] if written is None else written
        for node in self.nodes:
            rows = self._rows(node)
            if rows.height:
                taken.append(write_file(self.folder, 0, node, rows, self.now, changes=False))
        return taken

    def split(self, parts: int) -> "list[CompactTask] | None":
        """Return about so many tasks of fewer nodes; None of a single one."""
        if len(self.nodes) == 1:
            return None
        size = -(-len(self.nodes) // parts)
        some = [self.nodes[first : first + size] for first in range(0, len(self.nodes), size)]
        return [replace(self, nodes=nodes, rows=self.rows * len(nodes) // len(self.nodes)) for nodes in some]

    def _rows(self, node: int) -> pl.DataFrame:
        group, table = self.group, self.table
        near = [file for file in group.files if are_related(file.node, node)]
        own = [file for file in near if bits_of(file.node) >= group.bits]
        above = [file for file in near if bits_of(file.node) < group.bits]
        own_paths, above_paths = (tuple(self.folder.address(file.path).url for file in files) for files in (own, above))
        commits = tuple(file.last_commit for file in (*own, *above))
        options = self.folder.address().options
        history = DeltaFiles(node, own_paths, above_paths, 0, 0, table.keys, table.features, options, commits=commits)
        frames = history.read([*columns_of(table), COMMIT])
        rows = merge_files(frames, list(table.keys), list(table.features))
        return rows if self.without is None else self.without(rows)


def _nodes(file: File, bits: int) -> range:
    """Return the nodes of a depth in which rows of a file may be."""
    down = bits - bits_of(file.node)
    return range(file.node << down, (file.node + 1) << down) if down >= 0 else range(file.node >> -down, (file.node >> -down) + 1)


def _of_like_size(files: Sequence[File], ratio: int) -> Iterator[Sequence[File]]:
    """Yield the smallest files up to one that is not much larger than those before it together; most files first."""
    ascending = sorted(files, key=lambda file: (file.rows, file.path))
    rows, ends = 0, []
    for place, file in enumerate(ascending, 1):
        if file.rows <= ratio * rows:
            ends.append(place)
        rows += file.rows
    yield from (ascending[:end] for end in reversed(ends))
