"""Durable files: all files that a store keeps are written, moved and deleted here, so that they survive a power cut.

At a power cut a file system may lose what was written to a file since its last ``fsync``, and each change of a folder's names
since the folder's. So the order is: a file's bytes, then its name, then whatever tells others that it is there, and what it
replaces is deleted last. Every function returns once its effect is on the disk, but for ``remove``, which says when.

What others must not read is made so from its first byte on: files have the mode 0600 and folders 0700, or 0660 and 0770 under
a folder that ``share_with_group`` names.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # which is what is asked below

Content = bytes | Callable[[IO[bytes]], object]
"""What a file is to hold: bytes, or what writes them to the open file."""

TEMPORARY = ".tmp"
"""How the names of files end that are not whole yet. One that a killed process left may be deleted once it is old."""

_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES})
_WITHOUT_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_CREATIONS = 20
_LOCK = ".create.lock"
_shared: set[Path] = set()
_settled: set[tuple[int, int, int, int]] = set()
"""Which files of libraries this process has seen to: device, inode, time and size of each."""
_MOST_SETTLED = 100_000


def share_with_group(folder: Path) -> None:
    """Let the group of new files and folders under a folder read and write them, in this process."""
    _shared.add(folder.absolute())


def file_mode(path: Path) -> int:
    """Return the mode that a file has which a store keeps at a path."""
    return 0o660 if _is_shared(path) else 0o600


def folder_mode(path: Path) -> int:
    """Return the mode that a folder has in which a store keeps something."""
    return 0o770 if _is_shared(path) else 0o700


def make_folders(folder: Path, *, private: bool = True) -> None:
    """Make a folder and those above it, as far as they are not there.

    Args:
        folder: the folder.
        private: whether others are kept out of those that are made; else the process's umask says.
    """
    missing = []
    above = folder
    while not above.is_dir():
        missing.append(above)
        above = above.parent
    for missing_folder in reversed(missing):
        try:
            missing_folder.mkdir(mode=0o700 if private else 0o777)
        except FileExistsError:
            if not missing_folder.is_dir():
                raise
        else:
            if private and _is_shared(missing_folder):
                missing_folder.chmod(folder_mode(missing_folder) | (missing_folder.stat().st_mode & stat.S_ISGID))
        sync_folder(missing_folder.parent)


def write_file(path: Path, content: Content, *, private: bool = True) -> None:
    """Write a file under a name that nobody looks at before this returns; its folder is there.

    Args:
        path: where.
        content: what it is to hold.
        private: whether others are kept from reading it; else the process's umask says.

    Raises:
        FileNotFoundError: its folder is not there.
        OSError: it cannot be written; then nothing is left of it.
    """
    _write(path, content, private=private)
    sync_folder(path.parent)


def replace_file(path: Path, content: Content, *, private: bool = True) -> None:
    """Replace a file atomically: a reader finds the old content or the new, also after a power cut."""
    beside = path.with_name(f"{uuid4().hex}{TEMPORARY}")
    _write(beside, content, private=private)
    move(beside, path)


def swap_file(path: Path, content: Content, is_wanted: Callable[[os.stat_result], bool]) -> os.stat_result | None:
    """Replace a file if it is still the one that the caller knows, as ``replace_file`` does.

    Of several callers at once that know the same file, one succeeds. The new file's time is later than the old one's, so that it is
    another by its number and time, even where the number is used again.

    Args:
        path: where.
        content: what it is to hold.
        is_wanted: looks at what the system says of the file that is there.

    Returns:
        What the system says of the new file; None if there is none to replace, or another.

    Raises:
        OSError: it cannot be written, or its file system or this system does not have locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "files are not replaced by comparison on this system", str(path))
    beside = path.with_name(f"{uuid4().hex}{TEMPORARY}")
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        # NOTE: the lock is on the file that is replaced, not on its name. Who gets it after that finds another one at the name.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        former = os.fstat(descriptor)
        if not os.path.samestat(former, path.stat()) or not is_wanted(former):
            return None
        _write(beside, content, private=True)
        status = beside.stat()
        if status.st_mtime_ns <= former.st_mtime_ns:
            os.utime(beside, ns=(status.st_atime_ns, former.st_mtime_ns + 1))
            status = beside.stat()
        move(beside, path)
    except FileNotFoundError:  # it was deleted meanwhile, or what was to replace it by somebody who cleared up
        return None
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # which a forked child would keep
        os.close(descriptor)
    return status


def create_file(path: Path, content: Content, *, private: bool = True) -> os.stat_result | None:
    """Create a file with its content if there is none of that name; its folder is there.

    Of several processes at once one succeeds. Readers find the whole file or none.

    Args:
        path: where.
        content: what it is to hold.
        private: whether others are kept from reading it; else the process's umask says.

    Returns:
        What the system says of the new file; None if there is one of that name.

    Raises:
        OSError: it cannot be written.
    """
    for left in reversed(range(_CREATIONS)):
        beside = path.with_name(f"{uuid4().hex}{TEMPORARY}")
        _write(beside, content, private=private)
        try:
            status = beside.stat()
            is_created = _link(beside, path)
        except FileNotFoundError:  # somebody cleared up what looked left behind
            if not left:
                raise
            continue
        finally:
            beside.unlink(missing_ok=True)
        if is_created:
            sync_folder(path.parent)
        return status if is_created else None
    raise AssertionError("the last attempt raises")


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name, if there is no file of that name; return whether there was none."""
    try:
        os.link(source, target)
    except FileExistsError:
        return source.stat().st_nlink > 1  # it is this one: NFS answers so when it repeats a request
    except OSError as error:
        if fcntl is None or error.errno not in _WITHOUT_LINKS:
            raise
        # On exFAT and some file systems of other machines: one after the other, by a lock.
        lock = open_lock(target.with_name(_LOCK))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return False
            source.replace(target)
        finally:
            os.close(lock)
    return True


def move(source: Path, target: Path) -> None:
    """Give a file, whose bytes are on the disk, another name, in place of a file that has it."""
    source.replace(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its times; the folders of the copy are made."""
    make_folders(target.parent)
    with source.open("rb") as given:
        write_file(target, lambda file: shutil.copyfileobj(given, file, 1 << 20))
    with suppress(OSError):  # which a file system may not keep
        shutil.copystat(source, target)
        target.chmod(file_mode(target))


def remove(paths: Iterable[Path], *, lasting: bool = False) -> None:
    """Delete files; one that is not there is no error.

    Args:
        paths: the files.
        lasting: whether they must not be there again after a power cut. What nothing names any more may come back.
    """
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    if lasting:
        for folder in folders:
            with suppress(FileNotFoundError):  # which is gone with them
                sync_folder(folder)


def remove_folder(folder: Path, *, lasting: bool = True) -> None:
    """Delete a folder with all that is in it; others may do so at the same time."""
    while folder.is_dir():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
    if lasting:
        with suppress(FileNotFoundError):
            sync_folder(folder.parent)


def is_removed_empty(folder: Path) -> bool:
    """Delete a folder if it is empty, and return whether it was; a writer that needs it creates it again."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def open_lock(path: Path) -> int:
    """Open a file that locks are taken on, and make it where it is not there; return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, file_mode(path))
    if _is_shared(path):
        with suppress(PermissionError, AttributeError):  # another user's, or Windows
            os.fchmod(descriptor, file_mode(path))
    return descriptor


def make_file(path: Path) -> None:
    """Make an empty file for a library to write to, with its mode, where there is none; its folder is made."""
    make_folders(path.parent)
    if not path.exists():
        os.close(open_lock(path))
        sync_folder(path.parent)


def make_mark(path: Path, former: Iterable[Path]) -> None:
    """Make an empty file whose name says something, in place of former ones; it need not outlast a power cut."""
    os.close(open_lock(path))
    for former_mark in former:
        former_mark.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Take over what a library wrote into a folder: its files are on the disk then, and their owner's alone.

    Those that this process took over before it passes over, so it costs a look at each. Their modes would not tell: where the
    umask keeps others out anyway, a new file has the mode already.
    """
    try:
        with os.scandir(folder) as entries:
            files = [(Path(entry.path), entry.stat()) for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for path, seen in files:
        wanted = file_mode(path)
        state = seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size
        if stat.S_IMODE(seen.st_mode) == wanted and state in _settled:
            continue
        with suppress(FileNotFoundError):  # somebody cleared up
            descriptor = os.open(path, os.O_RDONLY)
            try:
                _sync(descriptor)
                with suppress(PermissionError):  # another user of the group wrote it
                    os.chmod(path, wanted)  # noqa: PTH101 - beside the other calls of os on the same file
            finally:
                os.close(descriptor)
            if len(_settled) >= _MOST_SETTLED:
                _settled.clear()
            _settled.add(state)
    with suppress(FileNotFoundError):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    if os.name == "nt":  # where a folder cannot be opened, and names are journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _write(path: Path, content: Content, *, private: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600 if private else 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - it is open already
            if private and _is_shared(path) and hasattr(os, "fchmod"):
                os.fchmod(descriptor, file_mode(path))
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            _sync(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _sync(descriptor: int) -> None:
    """Return once a file or folder is on the disk; on macOS ``fsync`` alone leaves it in the drive's cache."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError:  # a volume that has no such thing
            pass
        else:
            return
    os.fsync(descriptor)


def _is_shared(path: Path) -> bool:
    if not _shared:
        return False
    place = path.absolute()
    return any(place.is_relative_to(folder) for folder in _shared)
