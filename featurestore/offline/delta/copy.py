"""Copying a project's history while runs, pushes and readers continue."""

from collections.abc import Iterator
from pathlib import Path

from featurestore.durable import copy_file, remove_folder
from featurestore.errors import OfflineStoreError
from featurestore.offline.delta.files import translated
from featurestore.offline.delta.open import open_delta
from featurestore.offline.delta.sequence import FOLDER, MARK

_COMMITS = "_delta_log"
_ATTEMPTS = 5


def copy_project(folder: Path, project: str, target: Path) -> tuple[int, int]:
    """Copy the history of a project, its rejected rows and feature logs; return how many files, and their bytes.

    Of each table the sequence of pushes and intents is copied first, then the log of commits, then all else. What a commit takes
    out of the sequence meanwhile is in the copy still, and what the copied commits name is not deleted before the
    retention is over: so the copy is the table as it stood at one moment while it was made.

    Args:
        folder: the folder of the history.
        project: the project.
        target: the folder to copy to, in the same layout.

    Raises:
        OfflineStoreError: a file cannot be read or written, or a table was rewritten each time it was copied.
    """
    own = folder / project
    with translated("copy", str(own)):
        tables = sorted(path.parent for path in own.rglob(_COMMITS) if path.is_dir())
        for table in tables:
            _copy_table(table, target / table.relative_to(folder))
        _copy(own, target / project, [path for path in _files(own) if not any(path.is_relative_to(table) for table in tables)])
    copied = list(_files(target / project)) if own.is_dir() else []
    return len(copied), sum(path.stat().st_size for path in copied)


def _copy_table(table: Path, target: Path) -> None:
    for _ in range(_ATTEMPTS):
        remove_folder(target, lasting=False)
        _copy(table, target, sorted((table / FOLDER).glob(f"*{MARK}")))  # before what it tells of, for more may come meanwhile
        for part in (FOLDER, _COMMITS):
            _copy(table, target, [path for path in _files(table / part) if path.suffix != MARK])
        others = [path for path in _files(table) if path.relative_to(table).parts[0] not in (FOLDER, _COMMITS)]
        _copy(table, target, others)
        named = open_delta(target).file_uris()
        if all(Path(path.removeprefix("file://")).exists() for path in named):
            return
    raise OfflineStoreError(
        f"The table {table} was rewritten {_ATTEMPTS} times while it was copied. Repeat it when nobody is being forgotten."
    )


def _copy(folder: Path, target: Path, files: "Iterator[Path] | list[Path]") -> None:
    for path in files:
        copy = target / path.relative_to(folder)
        try:
            copy_file(path, copy)
        except FileNotFoundError:
            # It was cleared away meanwhile; whether it is needed is looked at in the end.
            continue


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())
