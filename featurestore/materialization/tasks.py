"""Pieces of runs as tasks of an engine: chunks that are staged, buckets whose values are written online.

A task names the project, and the worker opens it: definitions, registry and stores are what they are there. So a worker does what
the process that asked would do: it passes the write barrier, leaves out who is forgotten, and says the same of wrong rows. A task
that runs twice stages its chunk twice, of which one counts, and writes values that are there (S15, S17).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import polars as pl

from featurestore.definitions.catalog import AppliedView, BoundView
from featurestore.definitions.source import FrameSource
from featurestore.engines.base import Engine, goes_elsewhere
from featurestore.materialization.results import Written
from featurestore.offline.base import History, Table
from featurestore.rows.widths import COPIES, width_of

TASK_BYTES = 256 << 20
"""How much memory a task that writes online takes, where there are rows enough."""


class OpenedProject(Protocol):
    """What a worker does of a project's runs."""

    def stage(self, view: str, data_version: int, run: int, index: int, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """Read a chunk of a run's span, and stage its rows; return what the ledger notes of it."""

    def write_part(self, view: str, data_version: int, part: History, *, whole: bool, repair: bool) -> Written:
        """Write the values of a bucket online."""

    def without_forgotten(self, table: Table, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows of a table without those of forgotten entities; the process that asked keeps others from being forgotten."""


class ProjectElsewhere(Protocol):
    """Names a project for workers. It can be pickled, and holds no secret."""

    def open(self) -> OpenedProject:
        """Return the project as it is opened on this machine.

        Raises:
            EngineError: it is not here, or cannot be opened with what this process knows.
        """


@dataclass(frozen=True)
class StageTask:
    """Stage a chunk of a run: see ``Task``.

    Args:
        project: the project.
        view: the view.
        data_version: the version of its stored values.
        seq: the run.
        index: the number of the chunk.
        chunk: what it is, in plain JSON values.
        weight: about how many bytes of memory it takes.
    """

    project: ProjectElsewhere
    view: str
    data_version: int
    seq: int
    index: int
    chunk: Mapping[str, Any]
    weight: int

    def run(self) -> tuple[int, dict[str, Any]]:
        """Return the number of the chunk, and what the ledger notes of it."""
        return self.index, self.project.open().stage(self.view, self.data_version, self.seq, self.index, self.chunk)

    def split(self, parts: int) -> None:
        """Return None: the ledger has said what the chunk is."""


@dataclass(frozen=True)
class OnlineTask:
    """Write the values of some buckets online: see ``Task``.

    Args:
        project: the project.
        view: the view.
        data_version: the version of its stored values.
        parts: the buckets.
        whole: as ``PartWriter.write_part``.
        repair: as ``PartWriter.write_part``.
        weight: about how many bytes of memory it takes: that of the largest bucket, for one after the other is in it.
    """

    project: ProjectElsewhere
    view: str
    data_version: int
    parts: tuple[History, ...]
    whole: bool
    repair: bool
    weight: int

    def run(self) -> tuple[int, Written]:
        """Return how many buckets it has, and how many values became newer. Of a task that ran twice it may be fewer than did."""
        opened = self.project.open()
        done = [opened.write_part(self.view, self.data_version, part, whole=self.whole, repair=self.repair) for part in self.parts]
        return len(done), Written(sum(written.online for written in done), sum(written.tied for written in done))

    def split(self, parts: int) -> "list[OnlineTask] | None":
        """Return a task a bucket; None of a single one."""
        return None if len(self.parts) == 1 else [replace(self, parts=(part,)) for part in self.parts]


class WithoutForgotten:
    """Takes rows of forgotten entities out of a table's, on whichever machine.

    Args:
        project: the project.
        table: the table.
        here: does it in this process; None on a worker, which opens the project for it.
    """

    def __init__(self, project: ProjectElsewhere, table: Table, here: Callable[[pl.DataFrame], pl.DataFrame] | None = None) -> None:
        self._project = project
        self._table = table
        self._here = here

    def __reduce__(self) -> tuple[type["WithoutForgotten"], tuple[ProjectElsewhere, Table]]:
        return WithoutForgotten, (self._project, self._table)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows without them."""
        return self._project.open().without_forgotten(self._table, rows) if self._here is None else self._here(rows)


@dataclass(frozen=True)
class Workers:
    """What does pieces of runs on other machines, where the engine's tasks run there.

    Args:
        open_engine: returns the engine; a cluster is joined once it is asked for something.
        project: names the project for workers.
        chunk_rows: about how many of a source's rows a chunk has.
        reach_online: whether workers reach the online store: one in a folder of this machine is written to by this process alone.
    """

    open_engine: Callable[[], Engine]
    project: ProjectElsewhere
    chunk_rows: int
    reach_online: bool

    def stages(self, view: BoundView) -> bool:
        """Return whether chunks of a view are staged elsewhere. A frame in memory is nowhere but here."""
        return not isinstance(view.spec.source_as_read, FrameSource) and self.engine.capacity().elsewhere

    def stage(
        self, view: BoundView, run: int, chunks: Mapping[int, Mapping[str, Any]]
    ) -> Generator[tuple[int, dict[str, Any]], None, None]:
        """Stage chunks of a run, and yield what the ledger notes of each as it comes, with its number."""
        width = width_of([*view.spec.entity.keys.values(), *view.spec.stored_schema.values()])
        heaviest = 2 * COPIES * (16 + width) * self.chunk_rows  # as they are read, and as they are stored
        weight = min(heaviest, self.engine.capacity().memory_per_task)
        name, number = view.spec.name, view.data_version
        tasks = (StageTask(self.project, name, number, run, index, chunk, weight) for index, chunk in sorted(chunks.items()))
        with closing(self.engine.run(tasks)) as results:
            yield from (receipt for _, receipt in results)

    def writes(self, parts: Sequence[History]) -> bool:
        """Return whether the values of some buckets are written online by workers."""
        return self.reach_online and goes_elsewhere(self.engine, sum(part.rows for part in parts))

    def write(
        self, applied: AppliedView, parts: Sequence[History], *, whole: bool, repair: bool
    ) -> Generator[tuple[int, Written], None, None]:
        """Write the values of buckets online, and yield for some after others how many these are, and what was written."""
        width = COPIES * (16 + width_of([*applied.spec.entity.keys.values(), *applied.spec.stored_schema.values()]))
        groups: list[list[History]] = []
        room = 0
        for part in parts:
            if not groups or room < width * part.rows:
                groups.append([])
                room = TASK_BYTES
            groups[-1].append(part)
            room -= width * part.rows
        tasks = (
            OnlineTask(
                self.project, applied.spec.name, applied.data_version, tuple(group), whole, repair,
                width * max(part.rows for part in group),
            )
            for group in groups
        )  # fmt: skip
        with closing(self.engine.run(tasks)) as results:
            yield from (receipt for _, receipt in results)

    def without_forgotten(self, table: Table, here: Callable[[pl.DataFrame], pl.DataFrame]) -> WithoutForgotten:
        """Return what takes rows of forgotten entities out of a table's: ``here`` in this process, else as it is opened there."""
        return WithoutForgotten(self.project, replace(table, spec=None), here)

    @property
    def engine(self) -> Engine:
        """The engine."""
        return self.open_engine()
