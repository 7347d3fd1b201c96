"""The secret of a project's tombstones, stored outside the registry, so that hashes alone reveal no keys."""

import hashlib
import secrets
from functools import lru_cache
from pathlib import Path

from featurestore.durable import make_folders, replace_file
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
                "backup of the history, or let the user of this process read it."
            ) from error

    def make(self, salt: bytes) -> bytes:
        """Returns the secret, which is made where there is none. One process at a time may call this.

        Raises:
            RegistryError: its file cannot be written or read.
        """
        known = self.read(salt)
        if known is not None:
            return known
        try:
            make_folders(self._path.parent)
            replace_file(self._path, secrets.token_hex(_SIZE).encode())
        except OSError as error:
            raise RegistryError(f"The secret of the tombstones cannot be kept in {self._path}: {error.strerror}.") from error
        made = self.read(salt)
        assert made is not None, "it was made"
        return made


@lru_cache(maxsize=8)
def _derived(given: str, salt: bytes) -> bytes:
    """Derive a key from a chosen text; guessing costs 16 MiB and some 50 ms per text."""
    return hashlib.scrypt(given.encode(), salt=salt, n=2**14, r=8, p=1, dklen=_SIZE)
