"""A Ray cluster of three nodes on the loopback interface: each a process group of its own on this machine, with one CPU."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import psutil
import pytest

from tests.servers.s3_server import S3Server

T = TypeVar("T")
_ATTEMPTS = 4
MEMORY = 1 << 30
"""What a node has for tasks."""
HOST = "127.0.0.1"


@contextmanager
def ray_cluster(nodes: int = 3, cpus: int = 1, memory: int = MEMORY) -> Iterator[Any]:
    """Start a cluster, and end all of its processes."""
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Not in memory, and not where its sockets would have long names.
        os.environ["RAY_TMPDIR"] = folder
        with _started(nodes, cpus, memory) as cluster:
            yield cluster


@contextmanager
def _started(nodes: int, cpus: int, memory: int) -> Iterator[Any]:
    from ray.cluster_utils import Cluster  # the extra "ray"

    from featurestore.engines.ray import keep_to_loopback

    keep_to_loopback(is_kept=True)
    options = {"num_cpus": cpus, "memory": memory, "object_store_memory": 80 << 20, "node_ip_address": HOST}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False}))
    try:
        for _ in range(nodes - 1):
            _patiently(lambda: cluster.add_node(**options))
        yield cluster
    finally:
        cluster.shutdown()


def _patiently(start: Callable[[], T]) -> T:
    """Start a node: again where it did not within Ray's half minute, as a machine may have much else to do."""
    before = set(psutil.Process().children(recursive=True))
    for left in reversed(range(_ATTEMPTS)):
        try:
            return start()
        except Exception:  # it raises that very class
            for process in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left:
                raise
    raise AssertionError("the last attempt raises")


@pytest.fixture(scope="session")
def ray_nodes(seaweed: S3Server) -> Iterator[Any]:
    """A cluster that this process has joined. Its nodes have credentials for object storage in their environment."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed: pip install 'featurestore[ray]'")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in seaweed.variables.items():
                patch.setenv(name, value)
            cluster = stack.enter_context(ray_cluster())
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
        stack.callback(ray.shutdown)
        yield cluster
