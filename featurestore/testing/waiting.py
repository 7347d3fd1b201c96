"""Waiting for what another process or thread does."""

from collections.abc import Callable
from time import perf_counter, sleep

import pytest

PATIENCE = 20.0
"""For how many seconds a test waits."""


def wait_until(condition: Callable[[], object], otherwise: str) -> None:
    """Wait until a condition holds; fail the test with a message if it does not.

    Args:
        condition: is called again and again until it returns something true.
        otherwise: what to say when it does not.
    """
    end = perf_counter() + PATIENCE
    while not condition():
        if perf_counter() > end:
            pytest.fail(otherwise)
        sleep(0.01)
