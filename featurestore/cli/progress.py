"""Progress bars of materializations and training frames."""

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

_LEAST_SHOWN = 100 << 20
"""Of fewer bytes in all nothing is said."""


class Bars:
    """Draw one bar per view, or for a training frame, which restarts with each stage.

    Args:
        display: what draws them.
    """

    def __init__(self, display: "Display") -> None:
        self._display = display
        self._bars: dict[str, TaskID] = {}
        self._stages: dict[str, str] = {}

    def step(self, view: str, stage: str, done: int, total: int, *, size: int = 0, total_size: int = 0) -> None:
        """See ``featurestore.materialization.progress.Progress.step``."""
        text = f"{size / 2**30:.1f} of {total_size / 2**30:.1f} GiB" if total_size >= _LEAST_SHOWN else ""
        if view not in self._bars:
            self._bars[view] = self._display.add_task(view, total=total, stage=stage, size=text)
        elif self._stages[view] != stage:
            self._display.reset(self._bars[view], total=total, stage=stage, size=text)
        self._stages[view] = stage
        total_shown = max(total, 1) if done == total else total
        self._display.update(self._bars[view], completed=done, total=total_shown, stage=stage, size=text)
        if done == total:
            self._display.update(self._bars[view], completed=max(total, 1))


@contextmanager
def bars(*, wanted: bool = True) -> "Iterator[Progress | None]":
    """Show bars on standard error inside the block; show none and yield None unless that is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        TextColumn("{task.fields[stage]}", style="dim"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[size]}", style="dim"),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
    )
    with Display(*columns, console=err(), transient=True) as display:
        yield Bars(display)
