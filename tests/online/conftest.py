from collections.abc import Iterator
from multiprocessing.forkserver import ensure_running

import pytest

from tests.processes import CONTEXT
from tests.servers.valkey import ValkeyServer


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of this test alone, which it may stop."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def forking_process() -> None:
    """The process that forks others, as all tests want it: the contract would start one that has imported the contract alone."""
    assert CONTEXT.get_start_method() == "forkserver"
    ensure_running()
