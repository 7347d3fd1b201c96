"""A secret of a project in a file beside its history: to have the registry alone is not to have it."""

from pathlib import Path

from featurestore.durable import make_folders, replace_file
from featurestore.errors import OfflineStoreError


class SecretFile:
    """A secret in a file that only its owner may read.

    Args:
        path: the file. It is made when a secret is first kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def place(self) -> str:
        """See ``SecretKeeper.place``."""
        return str(self._path)

    def read(self) -> bytes | None:
        """See ``SecretKeeper.read``."""
        try:
            return bytes.fromhex(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OfflineStoreError(
                f"The secret of the tombstones in {self._path} cannot be read ({type(error).__name__}). Restore the file from a "
                "backup of the history, or let the user of this process read it."
            ) from error

    def write(self, secret: bytes) -> None:
        """See ``SecretKeeper.write``."""
        try:
            make_folders(self._path.parent)
            replace_file(self._path, secret.hex().encode())
        except OSError as error:
            raise OfflineStoreError(f"The secret of the tombstones cannot be kept in {self._path}: {error.strerror}.") from error
