"""Scratch: where the files of the work in hand lie, and who clears up what a killed process left there."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

from featurestore.offline.folder import Folder
from featurestore.retrieval.pieces import reaching

_WORK = "_work"
"""The folder of a shared place that has nothing but work in hand, a folder each."""
_OURS = re.compile(r"[0-9a-f]{32}/")
_ALIVE = "_alive"
"""The file by whose time one sees that somebody still works in a folder."""


@dataclass(frozen=True)
class Scratch:
    """Where the files of the work in hand lie.

    Args:
        open_folder: returns the folder of an address.
        given: the setting ``scratch``; empty for a temporary folder of this machine.
        shared: the address of a place that other machines reach too, for work that is done elsewhere where none is given.
        beat_seconds: how often a worker in a shared place gives a sign of life.
        stale_seconds: after how long without one its files are deleted.
    """

    open_folder: Callable[[str], Folder]
    given: str
    shared: str
    beat_seconds: float = 60
    stale_seconds: float = 1800

    @contextmanager
    def work(self, *, elsewhere: bool, beside: Path | None = None) -> Iterator[Folder]:
        """Return a new folder for some work, which is deleted with all that is in it at the end of the block.

        Args:
            elsewhere: whether other machines are to reach it.
            beside: a folder of this machine, whose disk has room for the result.

        Raises:
            EngineError: the setting's folder cannot be used.
        """
        if elsewhere or self.given:
            with self._shared_work(self.open_folder(self.given or self.shared).inside(_WORK)) as folder:
                yield folder
        else:
            with tempfile.TemporaryDirectory(prefix=".training-", dir=beside) as path:
                yield self.open_folder(path)

    @contextmanager
    def _shared_work(self, place: Folder) -> Iterator[Folder]:
        name = uuid4().hex
        folder, ended = place.inside(name), Event()
        with reaching(place):
            folder.write(_ALIVE, b"")
            with suppress(OSError):  # it may be another's, who lets nobody delete it
                self._sweep(place, name)
        pulse = Thread(target=self._beat, args=(folder, ended), name="featurestore-scratch", daemon=True)
        pulse.start()
        try:
            yield folder
        finally:
            ended.set()
            pulse.join()
            with suppress(OSError):  # what is left is swept
                _clear(place, f"{name}/")

    def _beat(self, folder: Folder, ended: Event) -> None:
        while not ended.wait(self.beat_seconds):
            with suppress(OSError):  # the tasks find that themselves, if it lasts
                folder.write(_ALIVE, b"")

    def _sweep(self, place: Folder, own: str) -> None:
        """Delete what others left who have given no sign of life for long, by the clock of what keeps the files."""
        alive = place.head(f"{own}/{_ALIVE}")
        present = alive.modified if alive is not None else 0.0
        for prefix in filter(_OURS.fullmatch, place.folders("")):
            sign = place.head(prefix + _ALIVE)
            signs = [sign] if sign is not None else place.list(prefix)
            if signs and max(entry.modified for entry in signs) < present - self.stale_seconds:
                _clear(place, prefix)


def _clear(place: Folder, prefix: str) -> None:
    place.delete(entry.name for entry in place.list(prefix))
