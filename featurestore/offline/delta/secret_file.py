"""A secret of a project in a file beside its history: to have the registry alone is not to have it."""

from featurestore.errors import OfflineStoreError
from featurestore.offline.folder import Folder


class SecretFile:
    """A secret in a file that only its owner may read.

    Args:
        folder: the folder of the project. Who may read the history there can read the secret.
        name: the file. It is made when a secret is first kept.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._name = name

    @property
    def place(self) -> str:
        """See ``SecretKeeper.place``."""
        return self._folder.address(self._name).url

    def read(self) -> bytes | None:
        """See ``SecretKeeper.read``."""
        try:
            return bytes.fromhex(self._folder.read(self._name).decode("ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OfflineStoreError(
                f"The secret of the tombstones in {self.place} cannot be read ({type(error).__name__}). Restore the file from a "
                "backup of the history, or let the user of this process read it."
            ) from error

    def write(self, secret: bytes) -> None:
        """See ``SecretKeeper.write``."""
        try:
            self._folder.write(self._name, secret.hex().encode())
        except OSError as error:
            raise OfflineStoreError(f"The secret of the tombstones cannot be kept in {self.place}: {error.strerror}.") from error
