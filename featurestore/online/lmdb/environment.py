"""LMDB environments of a process: shared, grown when full, and safe after a fork."""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage
from struct import Struct
from typing import ClassVar, TypeVar

import lmdb

from featurestore.durable import file_mode, make_folders
from featurestore.errors import OnlineStoreError

_T = TypeVar("_T")

_READERS = 1024
_READER_PAUSE = 0.0001
_META = Struct("<16x II 8x 8x I 92x QQ")
"""A meta page from its start: magic, version, the size of a page (in the record of the free pages), last page, transaction."""
_MAGIC = 0xBEEFC0DE
_DATA = "data.mdb"
_LITTLE_ROOM = 1 << 20


class LMDBEnvironments:
    """One LMDB environment, which all stores of its folder in this process share.

    LMDB must not open a file twice in one process, must not remake its map while a transaction of the process is open, and
    must not be used in a forked child. So there is one counted instance per file; a change of the map or a fork waits for
    the readers, each a mark in ``_readers``, and keeps new ones waiting meanwhile; a child reopens the files.
    """

    _all: ClassVar[dict[tuple[int, int], "LMDBEnvironments"]] = {}
    _all_lock: ClassVar[threading.RLock] = threading.RLock()
    _forgotten: ClassVar[list["LMDBEnvironments"]] = []

    def __init__(self, path: Path, map_size: int) -> None:
        self._path = path
        self._map_size = map_size
        self._users = 0
        self._lock = threading.RLock()  # held by whoever writes or changes the map
        self._open_to_readers = threading.Event()
        # NOTE: a list, because its append and pop are atomic and cost less than a lock.
        self._readers: list[None] = []
        self._environment: lmdb.Environment | None = None
        self._file = -1
        self._size = 0
        self._open()

    @classmethod
    def of(cls, path: Path, map_size: int) -> "LMDBEnvironments":
        """Return the files in a folder, opened if this process has not yet; ``release`` gives them back.

        Raises:
            OnlineStoreError: the folder cannot be made or opened, or holds something else.
        """
        with cls._all_lock:
            while cls._forgotten:
                cls._forgotten.pop().release()
            try:
                make_folders(path)
                # NOTE: by what the file is, not by its path, which may have been deleted and made anew meanwhile.
                data = path / _DATA
                files = cls._all.get(_identity(data)) if data.exists() else None
                if files is None:
                    files = cls(path.resolve(), map_size)
                    cls._all[_identity(data)] = files
            except (lmdb.Error, OSError) as error:
                raise explain(error, path, "opened") from error
            files._users += 1
            return files

    def release(self) -> None:
        """Give the files back, which closes them when nobody else uses them."""
        with LMDBEnvironments._all_lock:
            self._users -= 1
            if self._users:
                return
            for identity in [identity for identity, files in LMDBEnvironments._all.items() if files is self]:
                del LMDBEnvironments._all[identity]
            self._pause()
            try:
                self._close()
            finally:
                self._resume()

    def release_later(self) -> None:
        """Give the files back the next time any are opened: for a finalizer, which may run where a lock is held."""
        LMDBEnvironments._forgotten.append(self)

    def begin(self) -> "lmdb.Transaction[bytes]":
        """Return a read transaction; ``end`` it soon."""
        while True:
            self._readers.append(None)
            grown = False
            try:
                if self._open_to_readers.is_set() and (environment := self._environment) is not None:
                    self._check_size()
                    return _begin(environment)
            except lmdb.MapResizedError:
                grown = True
            except BaseException:
                self._readers.pop()
                raise
            self._readers.pop()
            self._settle(grown)

    def end(self, transaction: "lmdb.Transaction[bytes]") -> None:
        """End a read transaction."""
        transaction.abort()
        self._readers.pop()

    def look(self, work: Callable[["lmdb.Transaction[bytes]"], _T]) -> _T:
        """Return what some work in a read transaction returns."""
        transaction = self.begin()
        try:
            return work(transaction)
        finally:
            self.end(transaction)

    def change(self, work: Callable[["lmdb.Transaction[bytes]"], _T]) -> _T:
        """Return what some work in a write transaction returns. It is done again when the map was too small for it."""
        with self._lock:
            while True:
                environment = self._opened()
                self._check_size()
                try:
                    return self._transact(environment, work)
                except lmdb.MapResizedError:
                    self._remap(0)
                except lmdb.MapFullError:
                    # A reader that was killed keeps its pages from being used again, until someone notices.
                    environment.reader_check()
                    self._remap(2 * environment.info()["map_size"])

    def _transact(self, environment: lmdb.Environment, work: Callable[["lmdb.Transaction[bytes]"], _T]) -> _T:
        transaction = environment.begin(write=True)
        try:
            done = work(transaction)
            transaction.commit()
        except BaseException:
            # NOTE: py-lmdb's abort waits for a moment in which no thread reads. With busy readers that comes after minutes.
            self._pause()
            try:
                transaction.abort()
            finally:
                self._resume()
            raise
        return done

    def forget_dead_readers(self) -> None:
        """Free what readers that were killed still hold."""
        with self._lock:
            self._opened().reader_check()

    def open_anew(self) -> None:
        """Close the files and open them again: this process then has nothing in memory of the pages that it has written."""
        with self._lock:
            self._opened()
            self._pause()
            try:
                self._close()
                self._open()
            finally:
                self._resume()

    def is_current(self) -> bool:
        """Return whether the file that is open still lies in the folder: it may have been deleted, or put back from a copy."""
        with self._lock:
            self._opened()
            try:
                return _identity(self._path / _DATA) == _identity_of(os.fstat(self._file))
            except FileNotFoundError:
                return False

    def seems_current(self) -> bool:
        """Like ``is_current``, without waiting for a writer; True if that cannot be determined."""
        try:
            return _identity(self._path / _DATA) == _identity_of(os.fstat(self._file))
        except FileNotFoundError:
            return False
        except OSError:  # it is closed, or opened anew, at this moment
            return True

    def pages(self) -> int:
        """Return how many pages the file has, but for the two that tell where the others are."""
        with self._lock:
            return int(self._opened().info()["last_pgno"]) - 1

    def _opened(self) -> lmdb.Environment:
        if self._environment is not None:
            return self._environment
        if not self._users:
            raise OnlineStoreError(f"The online store in {self._path} was closed.")
        return self._open()

    def _open(self) -> lmdb.Environment:
        make_folders(self._path)
        _check_whole(self._path / _DATA)
        # NOTE: no spare transactions: a child would inherit their place in the table of readers.
        self._environment = lmdb.open(
            str(self._path), map_size=self._map_size, max_readers=_READERS, max_spare_txns=0, mode=file_mode(self._path)
        )
        self._environment.reader_check()
        self._file = os.open(self._path / _DATA, os.O_RDONLY | os.O_CLOEXEC)
        self._size = 0
        self._open_to_readers.set()
        return self._environment

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
            os.close(self._file)

    def _check_size(self) -> None:
        """Raise an error if the file was truncated: reading its map beyond the end kills the process without a message."""
        known = self._size  # before the file is looked at: another thread may see it grow after that
        size = os.lseek(self._file, 0, os.SEEK_END)
        if size < known:
            raise _cut(self._path)
        self._size = size

    def _remap(self, size: int) -> None:
        """Make the map of a size, or with 0 as large as another process has made the file."""
        self._pause()
        try:
            if self._environment is not None:
                self._environment.set_mapsize(size)
        finally:
            self._resume()

    def _settle(self, grown: bool) -> None:
        """Wait until readers may go on, after doing what keeps them from it."""
        if grown:
            with self._lock:
                self._remap(0)
        elif self._environment is None:
            with self._lock:
                self._opened()
        else:
            self._open_to_readers.wait()

    def _pause(self) -> None:
        """Wait until no transaction is open, and let none begin until ``_resume``."""
        self._lock.acquire()
        self._open_to_readers.clear()
        while self._readers:
            time.sleep(_READER_PAUSE)

    def _resume(self) -> None:
        self._open_to_readers.set()
        self._lock.release()

    def _leave_to_parent(self) -> None:
        """Release the files in a forked child, which reopens them when it needs them."""
        if self._environment is not None:
            # Nothing is open, so this touches nothing but the child's own copies of the map and the file descriptors.
            self._close()
        self._lock = threading.RLock()
        self._open_to_readers = threading.Event()
        self._readers = []


def _begin(environment: lmdb.Environment) -> "lmdb.Transaction[bytes]":
    try:
        return environment.begin()
    except lmdb.ReadersFullError:
        if environment.reader_check():  # readers that were killed held a place
            return environment.begin()
        raise


def _identity(data: Path) -> tuple[int, int]:
    return _identity_of(data.stat())


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _check_whole(data: Path) -> None:
    """Raise an error if a file of LMDB ends before its last page; LMDB itself refuses files of another format."""
    try:
        with data.open("rb") as file:
            head = file.read(1 << 17)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return
    if not size:
        return  # as it is when it is made
    metas = []
    for start in (0, _page_size(head)):
        if start + _META.size <= len(head):
            magic, _, page, last, transaction = _META.unpack_from(head, start)
            if magic == _MAGIC and page:
                metas.append((transaction, (last + 1) * page))
    newest = max(metas, default=(0, 0))
    if (_page_size(head) and len(metas) < 2) or size < newest[1]:
        raise _cut(data.parent)


def _page_size(head: bytes) -> int:
    if len(head) < _META.size:
        return 0
    magic, _, page, _, _ = _META.unpack_from(head)
    return page if magic == _MAGIC else 0


def _cut(path: Path) -> OnlineStoreError:
    return OnlineStoreError(f"The online store in {path} is damaged: its file was cut short. {_REBUILD}")


def _before_fork() -> None:
    LMDBEnvironments._all_lock.acquire()
    for files in LMDBEnvironments._all.values():
        files._pause()


def _after_fork_in_parent() -> None:
    for files in LMDBEnvironments._all.values():
        files._resume()
    LMDBEnvironments._all_lock.release()


def _after_fork_in_child() -> None:
    for files in LMDBEnvironments._all.values():
        files._leave_to_parent()
    LMDBEnvironments._all_lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


_REBUILD = (
    "Stop all that use the folder, delete it, and write its values again from the history: "
    "featurestore materialize --rebuild-online"
)
_DAMAGED = f"The files are damaged. {_REBUILD}"
_ADVICE: dict[type[Exception], str] = {
    lmdb.InvalidError: (
        "What is there is not an LMDB file, or no longer. If it is something else's, give the online store a folder of its own. "
        f"{_REBUILD}"
    ),
    lmdb.VersionMismatchError: f"Another version of LMDB wrote the files. {_REBUILD}",
    lmdb.CorruptedError: _DAMAGED,
    lmdb.PageNotFoundError: _DAMAGED,
    lmdb.PanicError: _DAMAGED,
    lmdb.ReadersFullError: f"More than {_READERS} readers at once: read from fewer processes and threads.",
    lmdb.ReadonlyError: "Give this user the right to write in it.",
}
_ADVICE_BY_CODE = {
    errno.ENOSPC: "The disk is full: make room, or name a folder on another disk.",
    errno.EDQUOT: "The quota of the disk is used up: make room, or name a folder on another disk.",
    errno.EACCES: "Give this user the right to read and write it, or name another folder.",
    errno.EPERM: "Give this user the right to read and write it, or name another folder.",
    errno.EROFS: "The disk can only be read: name a folder on another disk.",
    errno.ENOTDIR: "A file is in the way: name a folder.",
    errno.EEXIST: "A file is in the way: name a folder.",
    errno.ENOMEM: "There is no address space left for the map: see ulimit -v.",
    errno.EMFILE: "Too many files are open: see ulimit -n.",
    errno.EIO: "The disk fails, or is a network file system, which LMDB cannot use.",
}


def explain(error: lmdb.Error | OSError, path: Path, what: str) -> OnlineStoreError:
    """Return the error to raise for one of LMDB or of the file system.

    Args:
        error: the foreign error.
        path: the folder.
        what: what could not be done: ``"opened"``, ``"read"``, ``"written"``.
    """
    code = error.errno if isinstance(error, OSError) else error.code
    if code == errno.EIO and _is_full(path):
        code = errno.ENOSPC  # LMDB's own words for a write that ended short
    advice = _ADVICE.get(type(error)) or _ADVICE_BY_CODE.get(code or 0) or "Look at the folder and at the disk it is on."
    return OnlineStoreError(f"The online store in {path} could not be {what}: {str(error).rstrip('.')}. {advice}")


def _is_full(path: Path) -> bool:
    try:
        return disk_usage(path).free < _LITTLE_ROOM
    except OSError:
        return False
