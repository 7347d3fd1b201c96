"""The key ring: a flood of keys that there are not costs the registry nothing, and one that is away is waited for once."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.clock import utc_now
from featurestore.errors import UnavailableError
from featurestore.registry.api_keys import Key, Keys
from featurestore.registry.specs import SpecRegistry
from featurestore.server.security import api_key_cache as keyring
from featurestore.server.security.api_key_cache import ApiKeyCache


class Counting(Keys):
    """Keys that count how often they are read, and wait where they are told to."""

    reads = 0
    held: threading.Event | None = None

    def list(self) -> list[Key]:
        self.reads += 1
        if self.held is not None:
            self.held.wait(20)
        return super().list()


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Counting]:
    registry = SpecRegistry("sqlite:///registry.db", "p", tmp_path, utc_now)
    yield Counting(registry)
    registry.close()


def test_a_flood_of_unknown_keys_is_one_read(keys: Counting) -> None:
    made = keys.create("a", ["reader project"])

    async def flood() -> None:
        ring = ApiKeyCache(keys)
        texts = [f"fs_{number:016x}_{'0' * 64}" for number in range(2000)]
        found = await asyncio.gather(*map(ring.find, [*texts, made.secret, made.secret[:-1], "fs_", "nothing"]))
        assert found == [None] * 2000 + [made.key, None, None, None]

    asyncio.run(flood())
    assert keys.reads <= 3


def test_a_registry_that_hangs_holds_nobody_up(keys: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known counts on, for a minute; what is not known is not refused for good."""
    monkeypatch.setattr(keyring, "PATIENCE", 0.05)
    made = keys.create("a", ["reader project"])

    async def asked() -> None:
        ring = ApiKeyCache(keys)
        assert await ring.find(made.secret) == made.key
        keys.held = threading.Event()
        monkeypatch.setattr(keyring, "OLDEST", 0.0)
        assert await ring.find(made.secret) == made.key
        before = keyring.perf_counter()
        for _ in range(20):
            assert await ring.find(made.secret) == made.key
        assert keyring.perf_counter() - before < 10 * keyring.APART
        with pytest.raises(UnavailableError):
            await ring.find(f"fs_0_{'0' * 64}")
        monkeypatch.setattr(keyring, "UNREACHED", 0.0)
        with pytest.raises(UnavailableError):
            await ring.find(made.secret)
        monkeypatch.undo()
        keys.held.set()
        keys.held = None
        while ring._failing:
            await asyncio.sleep(0.01)
        assert await ring.find(f"fs_0_{'0' * 64}") is None

    asyncio.run(asked())
