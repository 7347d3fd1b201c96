"""The servers that tests start, and how much Hypothesis tries: without deadlines, for a machine may have other things to do."""

import gc

import pytest
from hypothesis import HealthCheck, settings

from tests.effort import has_more, is_quick

pytest_plugins = [
    "tests.servers.postgres",
    "tests.servers.valkey",
    "tests.servers.nats",
    "tests.servers.s3_stub",
    "tests.servers.seaweed",
    "tests.servers.ray_cluster",
]

settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("quick" if "not slow" in config.getoption("markexpr") else "thorough")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With the slow tests run all that try less in the quick run, before ``-m`` chooses."""
    if not is_quick():
        for item in filter(has_more, items):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Some 7,000 collected tests live to the end: the collector need not look at them again and again."""
    gc.collect()
    gc.freeze()
