"""Progress bars of a materialization."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from featurestore.cli.terminal import err

if TYPE_CHECKING:
    from rich.progress import TaskID

    from featurestore.materialization.progress import Progress


class Bars:
    """Draw one bar per view, which restarts with each stage.

    Args:
        display: what draws them.
    """

    def __init__(self, display: "Display") -> None:
        self._display = display
        self._bars: dict[str, TaskID] = {}
        self._stages: dict[str, str] = {}

    def step(self, view: str, stage: str, done: int, total: int) -> None:
        """See ``featurestore.materialization.progress.Progress.step``."""
        if view not in self._bars:
            self._bars[view] = self._display.add_task(view, total=total, stage=stage)
        elif self._stages[view] != stage:
            self._display.reset(self._bars[view], total=total, stage=stage)
        self._stages[view] = stage
        self._display.update(self._bars[view], completed=done, total=max(total, 1) if done == total else total, stage=stage)
        if done == total:
            self._display.update(self._bars[view], completed=max(total, 1))


@contextmanager
def bars(*, wanted: bool = True) -> "Iterator[Progress | None]":
    """Show bars on standard error inside the block; show none and yield None unless that is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("[bold]{task.description}"), TextColumn("{task.fields[stage]}", style="dim"), BarColumn(),
               MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left", style="dim"), TimeRemainingColumn())  # fmt: skip
    with Display(*columns, console=err(), transient=True) as display:
        yield Bars(display)
