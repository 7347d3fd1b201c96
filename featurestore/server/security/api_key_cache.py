"""The cache of API keys in a worker process, at most two seconds old."""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING

from featurestore.errors import RegistryError, UnavailableError

if TYPE_CHECKING:
    from featurestore.registry.api_keys import Key, Keys

_log = logging.getLogger("featurestore.server")

RENEW, OLDEST = 1.0, 2.0
"""After how many seconds keys are read again, without anybody waiting; and after how many the caller waits for that."""
APART = 0.25
"""How many seconds lie between two reads at the least, whatever keys come."""
PATIENCE = 1.0
"""For how many seconds anybody waits for a read; the keys known count on if it takes longer."""
UNREACHED = 60.0
"""For how many seconds the keys read last count while the registry cannot be reached."""


class ApiKeyCache:
    """Find keys. All are read at once, so that asking for keys which there are not costs the registry nothing.

    Args:
        keys: the registry's.
    """

    def __init__(self, keys: "Keys") -> None:
        self._keys = keys
        # A thread of its own: whatever else the server has to do, a revoked key is over within seconds.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="featurestore-keys")
        self._known: Mapping[str, Key] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._next: asyncio.Task[None] | None = None
        self._last: asyncio.Task[None] | None = None
        self._failing = False

    async def find(self, text: str) -> "Key | None":
        """Return the key of a text ``fs_<id>_<secret>``, expired and revoked ones too; None where there is none.

        Raises:
            UnavailableError: the registry has not been reached for a minute.
        """
        parts = self._keys.split(text)
        if parts is None:
            return None
        number, secret = parts
        await self._keep_fresh()
        key = self._known.get(number)
        if key is None:  # it may be new
            await self._renew()
            key = self._known.get(number)
        if perf_counter() - self._read_at > UNREACHED or (key is None and self._failing):
            raise UnavailableError("The registry, which has the keys, cannot be reached. Try again later.", 2.0)
        return key if key is not None and key.fits(secret) else None

    async def any(self) -> bool:
        """Return whether there is a key, expired and revoked ones too. What was known counts while the registry is away.

        Raises:
            UnavailableError: the registry has not been reached yet.
        """
        await self._keep_fresh()
        if self._read_at == float("-inf"):
            raise UnavailableError("The registry, which has the keys, cannot be reached. Try again later.", 2.0)
        return bool(self._known)

    async def _keep_fresh(self) -> None:
        age = perf_counter() - self._read_at
        if age >= OLDEST:
            await self._renew()
        elif age >= RENEW:
            self._begin()

    async def _renew(self) -> None:
        """Wait for a read that begins from now on; where the last one failed, nobody waits for the next."""
        reading = self._begin()
        if not self._failing:
            done, _ = await asyncio.wait({reading}, timeout=APART + PATIENCE)
            self._failing = self._failing or not done

    def _begin(self) -> "asyncio.Task[None]":
        if self._next is None:
            self._next = asyncio.create_task(self._read(self._last))
        return self._next

    async def _read(self, before: "asyncio.Task[None] | None") -> None:
        await asyncio.sleep(max(0.0, self._tried_at + APART - perf_counter()))
        if before is not None and not before.done():
            await asyncio.wait({before})
        self._next, self._last = None, self._next
        began = self._tried_at = perf_counter()
        try:
            keys = await asyncio.get_running_loop().run_in_executor(self._thread, self._keys.list)
        except RegistryError as error:
            self._failing = True
            _log.warning("The keys cannot be read; those read last count for a minute. %s", error)
        else:
            self._failing = False
            self._known = {key.id: key for key in keys}
            self._read_at = began
