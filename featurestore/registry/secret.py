"""The secret of a project's tombstones: not in the registry, for who has both it and the hashes can try keys."""

import hashlib
import os
import secrets
from functools import lru_cache
from pathlib import Path

from featurestore.errors import RegistryError

_SIZE = 32


class TombstoneSecret:
    """A secret that is given by a setting, or else is made at random and kept in a file that is its owner's alone.

    Args:
        path: the file, in a folder that all writers of the project share.
        given: the setting; empty for none.
    """

    def __init__(self, path: Path, given: str = "") -> None:
        self._path = path
        self._given = given

    def __repr__(self) -> str:
        return f"TombstoneSecret({self.place})"

    @property
    def place(self) -> str:
        """Where it is kept, for messages."""
        return "the setting 'tombstone_secret'" if self._given else str(self._path)

    def read(self, salt: bytes) -> bytes | None:
        """Returns the secret; None where there is none yet. A salt makes a setting another secret in each project.

        Raises:
            RegistryError: its file cannot be read.
        """
        if self._given:
            return _derived(self._given, salt)
        try:
            return bytes.fromhex(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RegistryError(
                f"The secret of the tombstones in {self._path} cannot be read ({type(error).__name__}). Restore the file from a "
                "backup of the history, or let whoever runs this read it."
            ) from error

    def make(self, salt: bytes) -> bytes:
        """Returns the secret, which is made where there is none; of several who make it at once, one does.

        Raises:
            RegistryError: its file cannot be written or read.
        """
        known = self.read(salt)
        if known is not None:
            return known
        beside = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(_SIZE))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(beside, self._path)
            except FileExistsError:
                pass  # another process was faster
            finally:
                beside.unlink()
            _flush(self._path.parent)
        except OSError as error:
            raise RegistryError(f"The secret of the tombstones cannot be kept in {self._path}: {error.strerror}.") from error
        made = self.read(salt)
        assert made is not None, "it was made, here or elsewhere"
        return made


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@lru_cache(maxsize=8)
def _derived(given: str, salt: bytes) -> bytes:
    """Returns a key of a text that somebody chose, which costs whoever tries texts 16 MiB and some 50 ms each."""
    return hashlib.scrypt(given.encode(), salt=salt, n=2**14, r=8, p=1, dklen=_SIZE)
