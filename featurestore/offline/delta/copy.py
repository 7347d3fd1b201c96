"""Copying a project's history while runs, pushes and readers continue."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import polars as pl

from featurestore.durable import copy_file
from featurestore.errors import OfflineStoreError
from featurestore.offline.delta.files import translated
from featurestore.offline.delta.log_entries import LOG
from featurestore.offline.delta.open import open_delta
from featurestore.offline.delta.sequence import FOLDER, MARK
from featurestore.offline.folder import Folder, delete_below, is_local
from featurestore.offline.folder_probe import require_conditions

_ATTEMPTS = 5
_THREADS = 8
"""How many files are copied at once where the network takes most of the time."""


def copy_project(project: Folder, target: Folder) -> tuple[int, int]:
    """Copy the history of a project, its rejected rows and feature logs; return how many files, and their bytes.

    Of each table the sequence of pushes and intents is copied first, then the log of commits, then all else. What a commit takes
    out of the sequence meanwhile is in the copy still, and what the copied commits name is not deleted before the
    retention is over: so the copy is the table as it stood at one moment while it was made.

    Args:
        project: the project's folder.
        target: the folder to copy to, in the same layout: of this machine, or in object storage.

    Raises:
        OfflineStoreError: a file cannot be read or written, or a table was rewritten each time it was copied.
    """
    with translated("copy", f"{project.address().url} to {target.address().url}"):
        require_conditions(target)
        done: set[str] = set()
        # NOTE: again until there is no other one: a view that had pushes alone becomes a table meanwhile.
        while tables := sorted(_tables_of(names := [file.name for file in project.list("")]) - done):
            for table in tables:
                _copy_table(project.inside(table), target.inside(table))
            done.update(tables)
        _copy(project, target, (name for name in names if not any(name.startswith(f"{table}/") for table in done)))
        copied = target.list("")
    return len(copied), sum(file.size for file in copied)


def _tables_of(names: Sequence[str]) -> set[str]:
    """Return the folders in which tables are, of the names of a project's files: what has a log, or pushes that wait for one."""
    parts = (f"/{LOG}/", f"/{FOLDER}/")
    return {name.partition(part)[0] for name in names for part in parts if part in name}


def _copy_table(table: Folder, target: Folder) -> None:
    for _ in range(_ATTEMPTS):
        delete_below(target, "")
        # The marks before what they tell of, for more may come meanwhile.
        _copy(table, target, (file.name for file in table.list(f"{FOLDER}/") if file.name.endswith(MARK)))
        for part in (f"{FOLDER}/", f"{LOG}/"):
            _copy(table, target, (file.name for file in table.list(part) if not file.name.endswith(MARK)))
        others = (file.name for file in table.list("") if not file.name.startswith((f"{FOLDER}/", f"{LOG}/")))
        _copy(table, target, others)
        if not target.list(f"{LOG}/"):
            return  # there are pushes alone
        actions = pl.DataFrame(open_delta(target).get_add_actions())
        named = actions["path"].to_list() if actions.height else []
        if {unquote(path) for path in named} <= {file.name for file in target.list("")}:
            return
    raise OfflineStoreError(
        f"The table {table.address().url} was rewritten {_ATTEMPTS} times while it was copied. Repeat it when nobody is being "
        "forgotten."
    )


def _copy(folder: Folder, target: Folder, names: Iterable[str]) -> None:
    with ThreadPoolExecutor(1 if is_local(folder) and is_local(target) else _THREADS) as threads:
        for _ in threads.map(lambda name: _copy_one(folder, target, name), names):
            pass


def _copy_one(folder: Folder, target: Folder, name: str) -> None:
    source, copy = folder.address(name).path, target.address(name).path
    try:
        if source is not None and copy is not None:
            copy_file(source, copy)
        else:
            target.write(name, folder.read(name))
    except FileNotFoundError:
        # It was cleared away meanwhile; whether it is needed is looked at in the end.
        return
