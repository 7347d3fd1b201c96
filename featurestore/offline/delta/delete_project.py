"""Deleting what a project has in a folder of histories: tables, logs, staged files, rejected rows and locks."""

from collections import Counter

from featurestore.offline.delta.files import translated
from featurestore.offline.delta.log_entries import LOG
from featurestore.offline.folder import Folder, delete_below


def remove_project(folder: Folder, *, dry_run: bool) -> dict[str, int]:
    """Delete, or count, the files of a project; return how many, by view or other folder.

    Args:
        folder: the project's folder.
        dry_run: count only.

    Raises:
        OfflineStoreError: a file cannot be deleted.
    """
    with translated("delete", folder.address().url):
        names = [file.name for file in folder.list("")]
        counts = Counter(name.partition("/")[0] for name in names if "/" in name)
        if not dry_run:
            # Logs first, so that no reader finds one without its files.
            logs = sorted({f"{name.partition(f'/{LOG}/')[0]}/{LOG}/" for name in names if f"/{LOG}/" in name})
            delete_below(folder, *logs, "")
        return dict(sorted(counts.items()))
