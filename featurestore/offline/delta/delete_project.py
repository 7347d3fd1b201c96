"""Deleting a project's folder of histories: tables, logs, staged files, rejected rows and locks."""

from pathlib import Path

from featurestore.durable import remove_folder
from featurestore.offline.delta.files import translated


def remove_project(folder: Path, project: str, *, dry_run: bool) -> dict[str, int]:
    """Delete, or count, the files of a project; return how many, by view or other folder.

    Args:
        folder: the folder of the history.
        project: the project.
        dry_run: count only.

    Raises:
        OfflineStoreError: a file cannot be deleted.
    """
    own = folder / project
    with translated("delete", str(own)):
        if not own.is_dir():
            return {}
        counts = {
            part.name: sum(1 for path in part.rglob("*") if path.is_file()) for part in sorted(own.iterdir()) if part.is_dir()
        }
        if not dry_run:
            remove_folder(own)
    return counts
