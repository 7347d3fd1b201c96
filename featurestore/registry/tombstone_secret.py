"""The secret of a project's tombstones, stored outside the registry, so that hashes alone reveal no keys."""

import hashlib
import secrets
from functools import lru_cache

from featurestore.offline.base import SecretKeeper

_SIZE = 32


class TombstoneSecret:
    """A secret that is given by a setting, or else is made at random and kept beside the history.

    Args:
        keeper: keeps it where all writers of the project find it.
        given: the setting; empty for none.

    Every method raises ``OfflineStoreError`` where the secret cannot be read or kept.
    """

    def __init__(self, keeper: SecretKeeper, given: str = "") -> None:
        self._keeper = keeper
        self._given = given

    def __repr__(self) -> str:
        return f"TombstoneSecret({self.place})"

    @property
    def place(self) -> str:
        """Where it is kept, for messages."""
        return "the setting 'tombstone_secret'" if self._given else self._keeper.place

    def read(self, salt: bytes) -> bytes | None:
        """Return the secret; None where there is none yet. A salt makes a setting another secret in each project."""
        return _derived(self._given, salt) if self._given else self._keeper.read()

    def make(self, salt: bytes) -> bytes:
        """Return the secret, which is made where there is none. One process at a time may call this."""
        known = self.read(salt)
        if known is not None:
            return known
        secret = secrets.token_bytes(_SIZE)
        self._keeper.write(secret)
        return secret


@lru_cache(maxsize=8)
def _derived(given: str, salt: bytes) -> bytes:
    """Derive a key from a chosen text; guessing costs 16 MiB and some 50 ms per text."""
    return hashlib.scrypt(given.encode(), salt=salt, n=2**14, r=8, p=1, dklen=_SIZE)
