from collections.abc import Iterator

import pytest

from tests.servers.valkey import ValkeyServer


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of this test alone, which it may stop."""
    with ValkeyServer() as server:
        yield server
