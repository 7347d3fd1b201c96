"""Finding the files of a source: a file, a glob or a folder, in reading order."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from featurestore.definitions.source import Source
from featurestore.errors import SourceError, SourceMissingError

_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source, as it was when it was looked at.

    Args:
        name: how cursors and chunks name it: its path from the project's folder, or its whole path or address outside of it.
        location: where it is opened.
        size: its size in bytes.
        modified: when it was last written to, in nanoseconds since the epoch.
        changed: when it or its name last changed, likewise; nobody can set this one.
        inode: its number in the file system, which another file put in its place does not have.
        etag: of an object, what it has in place of times and an inode: another one whenever its content is another.
    """

    name: str
    location: str
    size: int
    modified: int
    changed: int = 0
    inode: int = 0
    etag: str = ""

    @property
    def stamp(self) -> list[int | str]:
        """What changes when the file does, in plain JSON values."""
        return [self.size, self.etag] if self.etag else [self.size, self.modified, self.changed, self.inode]


def natural_order(name: str) -> list[str | int]:
    """Return a key that sorts names with their numbers as numbers: ``day_9`` before ``day_10``.

    Example:
        >>> sorted(["day_10", "day_9"], key=natural_order)
        ['day_9', 'day_10']
    """
    return [int(part) if index % 2 else part for index, part in enumerate(_NUMBER.split(name))]


def absolute_path(path: str, root: Path) -> Path:
    """Return where a source's path leads, from the project's folder on; no I/O."""
    return root.absolute() / path.removeprefix("file://")


def source_file(location: Path, root: Path) -> SourceFile:
    """Return a file as it is now.

    Raises:
        OSError: it is not there or may not be looked at.
    """
    status = location.stat()
    folder = root.absolute()
    name = location.relative_to(folder) if location.is_relative_to(folder) else location
    return SourceFile(name.as_posix(), str(location), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def find_files(spec: Source, path: str, root: Path, endings: tuple[str, ...]) -> list[SourceFile]:
    """Return the files of a path, in natural order of their names.

    What a glob or a folder holds under a name that starts with ``_`` or ``.`` is left out: such files are being written, or
    speak about the others.

    Args:
        spec: the source's definition, for messages.
        path: a file, a glob or a folder.
        root: where a relative path starts.
        endings: the endings of the files to read in a folder.

    Raises:
        SourceError: the path is on no local file system, is a Delta table, or may not be looked at.
    """
    if "://" in path and not path.startswith("file://"):
        raise SourceError(
            f"Source {spec.name!r}: {path!r} is neither on a local file system nor in object storage that is known here: "
            "s3://…, gs://…, az://…. Mount it, or copy the files to one of these."
        )
    target = absolute_path(path, root)
    try:
        if target.is_file():
            return [source_file(target, root)]
        if target.is_dir():
            if (target / "_delta_log").is_dir():
                raise SourceError(f"Source {spec.name!r}: {target} is a Delta table. Use a DeltaSource.")
            matches = [path_found for path_found in _inside(target) if path_found.name.endswith(endings)]
        else:
            matches = _matches(path.removeprefix("file://"), root.absolute())
        files = [source_file(path_found, root) for path_found in matches if path_found.is_file()]
    except OSError as error:
        raise SourceError(f"Source {spec.name!r}: {target} could not be looked at: {error}") from error
    return sorted(files, key=lambda file: natural_order(file.name))


def nothing_there(spec: Source, path: str, root: Path, endings: tuple[str, ...]) -> SourceMissingError:
    """Return the error for a path without files: where was looked, and what to do."""
    target = absolute_path(path, root)
    if target.is_dir():
        what = f"the folder {target} has no files that end in {' or '.join(endings)}"
    elif has_magic(path):
        what = f"no file matches {target}"
    else:
        what = f"there is no file or folder {target}"
    return SourceMissingError(
        f"Source {spec.name!r}: {what}. Check path= (a relative one starts at the project's folder), or put the first file there."
    )


def _inside(folder: Path) -> Iterator[Path]:
    # NOTE: unlike rglob, which passes over a folder that it may not enter without a word.
    for base, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not _hidden((name,))]
        yield from (Path(base, name) for name in names if not _hidden((name,)))


def _raise(error: OSError) -> None:
    raise error


def _matches(pattern: str, root: Path) -> list[Path]:
    parts = Path(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if has_magic(part)), None)
    if fixed is None:
        return []
    # NOTE: only the pattern's own parts are globbed, for the project's folder may have a name that looks like one.
    base, moving = root.joinpath(*parts[:fixed]), parts[fixed:]
    asked = _hidden(moving)  # a pattern that spells such a name out wants it
    if moving[-1] == "**":
        moving = (*moving, "*")  # before Python 3.13 a closing ** finds folders alone
    return [match for match in base.glob(str(Path(*moving))) if asked or not _hidden(match.relative_to(base).parts)]


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith((".", "_")) and "=" not in part for part in parts)
