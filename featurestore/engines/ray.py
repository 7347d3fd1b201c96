"""The engine on Ray: runs tasks on a cluster, or on one of several processes that it starts on this machine.

Nothing but descriptions of tasks goes to the cluster, and nothing but receipts comes back: both are pickled here, by the names of
classes and never by their code. Workers have Python, featurestore and the code of users from their image, and credentials from
their own environment or role.
"""

import logging
import os
import pickle
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from io import BytesIO
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import FunctionType
from typing import Any, NamedTuple

import polars as pl

from featurestore.config import RaySettings
from featurestore.engines.base import Capacity, EngineAdapter, R, Task
from featurestore.errors import EngineError, FeatureStoreError, MissingExtraError
from featurestore.plugins import Context
from featurestore.version import VERSION

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported, which sends statistics otherwise
try:
    import ray
    from ray._private import ray_constants
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise MissingExtraError("The engine 'ray'", "ray") from error

_RETRIES = 3
"""How often a task is run again whose worker or node was lost."""
_ASKING = 64
"""How many tasks wait where the cluster starts nodes as they are needed: by these it sees how many are."""
_LOOK_SECONDS = 30.0
"""How often it is asked whether any node is left that can run what is under way."""
_MOST_LOOKS = 20
_CANCEL_SECONDS = 5.0
_CONNECTING = Lock()
_FRESH_SECONDS = 2.0
"""For how long the nodes are taken to be as they were: to ask for them takes some milliseconds."""
LOOPBACK = "127.0.0.1"
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_NOT_SENT = ("/.featurestore/", "/.git/", "/.venv/", "__pycache__/")
"""What of a project's folder stays here."""
_OURS = frozenset({"featurestore", "polars", *sys.stdlib_module_names})
"""Packages whose code is the same where the versions are."""

_log = logging.getLogger("featurestore")


class Versions(NamedTuple):
    """What must be the same on both sides: tasks are pickled, and frames must come out the same."""

    python: str
    ray: str
    polars: str
    featurestore: str

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self._asdict().items())


def versions() -> Versions:
    """Return the versions of this process."""
    return Versions(f"{sys.version_info.major}.{sys.version_info.minor}", ray.__version__, pl.__version__, VERSION)


@dataclass(frozen=True)
class _Failure:
    """What a task raised. The cause goes along, for an error's own pickle leaves it out."""

    error: BaseException
    cause: BaseException | None
    place: str

    def as_raised(self) -> BaseException:
        self.error.__cause__ = self.cause
        if self.place:
            self.error.add_note(f"In a task of the engine:\n{self.place}")
        return self.error


class RayEngine(EngineAdapter):
    """Run tasks on a Ray cluster. The cluster is joined, or started on this machine, at the first use.

    A task whose worker or node is lost is run again, up to three times. One that fits no node is an error at once.

    Args:
        settings: the table ``[ray]`` of the settings.
        threads: how many CPUs a cluster has that is started here.
        memory: how many bytes its tasks may take together.
        project: the project's folder, which workers are sent if the settings say so.
    """

    def __init__(self, settings: RaySettings, threads: int = 1, memory: int = 2 << 30, project: Path | None = None) -> None:
        self._settings = settings
        self._project = project
        self._threads = threads
        self._memory = memory
        self._is_ours = False
        self._seen: tuple[float, list[dict[str, float]]] | None = None
        self._remote = ray.remote(run_task)

    @classmethod
    def open(cls, context: Context) -> "RayEngine":
        """See ``EngineAdapter.open``."""
        return cls(RaySettings(**context.engine_settings), context.threads, context.memory, context.root)

    def run(self, tasks: Iterable[Task[R]]) -> Generator[tuple[Task[R], R], None, None]:
        """See ``Engine.run``."""
        self._connect()
        under_way: dict[Any, Task[R]] = {}
        done = 0
        try:
            for task in self.capacity().fitting(tasks):
                self._check_fits(task)
                while len(under_way) >= self._most_under_way():
                    yield from self._finished(under_way)
                under_way[self._begin(task)] = task
                done += 1
            while under_way:
                yield from self._finished(under_way)
            _log.debug("%d tasks ran on Ray.", done)
        finally:
            self._end(list(under_way))

    def capacity(self) -> Capacity:
        """See ``Engine.capacity``: that of the nodes there are now, or of the one that the cluster may start."""
        self._connect()
        nodes = self._nodes()
        cpus = sum(int(node.get("CPU", 0)) // self._settings.cpus_per_task for node in nodes)
        per_task = int(self._settings.memory_per_task_gib * 2**30)
        return Capacity(
            cpus=max(1, cpus),
            memory_per_task=min(per_task, self._largest(nodes) or per_task),
            elsewhere=True,
        )

    def _most_under_way(self) -> int:
        """Return how many tasks the cluster is given at once: enough that no CPU waits, or that it starts nodes for them."""
        return max(2 * self.capacity().cpus, _ASKING if self._settings.node_memory_gib else 0)

    def close(self) -> None:
        """See ``Engine.close``: leaves the cluster, and ends it if it was started here."""
        if self._is_ours and ray.is_initialized():
            ray.shutdown()
            keep_to_loopback(is_kept=False)
        self._is_ours = False

    # -- the cluster -----------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Join the cluster, unless this process is in one already: that of its caller counts, whatever the settings say."""
        with _CONNECTING:  # threads that ask first at the same time join once
            if not ray.is_initialized():
                self._connect_now()

    def _connect_now(self) -> None:
        self._seen = None
        address = self._settings.address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS") or address
        try:
            if address != "local":
                try:
                    self._join(address)
                except ConnectionError as error:
                    if address != "auto" or "Could not find any running Ray" not in str(error):
                        raise
                    address = "local"
            if address == "local":
                self._start()
        except Exception as error:  # Ray has no class of its own for what may go wrong as a cluster is joined
            raise EngineError(
                f"Ray cannot be reached at {address!r}: {_first_line(error)}. Is the cluster running, with the same Python "
                f"({versions().python}) and Ray ({ray.__version__}) as here? An address that begins with ray:// needs Ray's client "
                "too: pip install 'ray[client]'."
            ) from error
        self._is_ours = True

    def _join(self, address: str) -> None:
        keep_to_loopback(is_kept=address.startswith(f"{LOOPBACK}:"))
        ray.init(address=address, **self._common())

    def _start(self) -> None:
        """Start a cluster on this machine that no other machine reaches."""
        keep_to_loopback(is_kept=True)
        ray.init(
            address="local",
            num_cpus=self._threads,
            object_store_memory=int(self._settings.object_store_mib * 2**20),
            include_dashboard=False,
            _memory=self._memory,
            _node_ip_address=LOOPBACK,
            **self._common(),
        )

    def _common(self) -> dict[str, Any]:
        sent: dict[str, Any] = {}
        if self._settings.py_modules:
            sent["py_modules"] = list(self._settings.py_modules)
        if self._settings.ship_project and self._project is not None:
            sent |= {"working_dir": str(self._project.absolute()), "excludes": list(_NOT_SENT)}
        return {"log_to_driver": False, "logging_level": logging.WARNING, "runtime_env": sent or None}

    def _nodes(self) -> list[dict[str, float]]:
        """Return what each node has that is alive, or was a moment ago."""
        if self._seen is None or perf_counter() > self._seen[0] + _FRESH_SECONDS:
            self._seen = perf_counter(), [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return self._seen[1]

    def _largest(self, nodes: list[dict[str, float]]) -> int:
        """Return how many bytes a task may take on the node that has the most."""
        fitting = [node.get("memory", 0) for node in nodes if node.get("CPU", 0) >= self._settings.cpus_per_task]
        return int(max([self._settings.node_memory_gib * 2**30, *fitting]))

    def _check_fits(self, task: Task[Any]) -> None:
        """Refuse a task that no node can run: Ray would wait for such a node for ever.

        Raises:
            EngineError: there is none.
        """
        nodes = self._nodes()
        largest = self._largest(nodes)
        if not largest:
            raise EngineError(
                f"No node of the Ray cluster has the {self._settings.cpus_per_task} CPUs that a task is given "
                f"(the most is {int(max((node.get('CPU', 0) for node in nodes), default=0))}). Set ray.cpus_per_task to less; or, "
                "where the cluster starts nodes as they are needed, ray.node_memory_gib to the memory of the largest."
            )
        if task.weight > largest:
            raise EngineError(
                f"A task takes about {_gib(task.weight)} GiB and cannot be split, and the largest node of the Ray cluster has "
                f"{_gib(largest)} GiB for tasks. Add a node with more memory; or, where the cluster starts nodes as needed, set "
                "ray.node_memory_gib to the memory of the largest. What is heavy is one entity's rows, or those of one bucket."
            )

    # -- tasks -----------------------------------------------------------------------------------------------------------

    def _begin(self, task: Task[Any]) -> Any:
        content, modules = _pickled(task)
        cpus = self._settings.cpus_per_task
        options = self._remote.options(
            num_cpus=cpus,
            memory=max(1, task.weight),
            max_retries=_RETRIES,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"POLARS_MAX_THREADS": str(cpus)}},  # or each worker takes all of its machine's
            name=type(task).__name__,
        )
        return options.remote(content, versions(), modules)

    def _finished(self, under_way: dict[Any, Task[R]]) -> Iterator[tuple[Task[R], R]]:
        """Wait for a task to end, and give those that have with their results."""
        looks = 0
        while not (ready := ray.wait(list(under_way), num_returns=1, timeout=_LOOK_SECONDS)[0]):
            lightest = min(task.weight for task in under_way.values())
            looks = looks + 1 if lightest > self._largest(self._nodes()) else 0
            if looks > _MOST_LOOKS:
                raise EngineError(
                    f"{len(under_way)} tasks wait for a node of the Ray cluster, and none is left that can run one. Start nodes, "
                    "and call again."
                )
        others = [ref for ref in under_way if ref not in ready]
        ended = ray.wait(others, num_returns=len(others), timeout=0)[0] if others else []
        for ref in [*ready, *ended]:
            yield under_way.pop(ref), self._result(ref)

    @staticmethod
    def _result(ref: Any) -> Any:
        try:
            result = pickle.loads(ray.get(ref))
        except RayTaskError as error:
            raise EngineError(
                f"A worker of the Ray cluster cannot run tasks: {_first_line(error.cause or error)}. Is featurestore {VERSION} "
                "installed there, with the extras that are used here?"
            ) from error
        except RayError as error:
            raise EngineError(
                f"A task on the Ray cluster was lost {_RETRIES + 1} times, or could not begin: {type(error).__name__}: "
                f"{_first_line(error)}. Do workers run out of memory? Then set ray.memory_per_task_gib to less, so that work is "
                "cut smaller, and look at the cluster's logs."
            ) from error
        if isinstance(result, _Failure):
            raise result.as_raised()
        return result

    @staticmethod
    def _end(refs: list[Any]) -> None:
        """Take back tasks that have not begun, and end those that run: the files that they read may be deleted now."""
        if not refs or not ray.is_initialized():
            return
        with suppress(RayError, OSError):  # a cluster that is gone has ended them
            for force in (False, True):
                for ref in refs:
                    ray.cancel(ref, force=force)
                refs = ray.wait(refs, num_returns=len(refs), timeout=_CANCEL_SECONDS)[1]
                if not refs:
                    return


def keep_to_loopback(*, is_kept: bool) -> None:
    """Let clusters that this process starts or joins listen at the loopback interface alone, or at all of them.

    NOTE: Ray turns 127.0.0.1 into the address under which other machines see this one, unless clusters of several machines are
    switched off. It reads that variable as it is imported, so what it read is set too; the processes that it starts read it again.
    """
    os.environ[_CLUSTERS] = str(int(not is_kept))
    ray_constants.ENABLE_RAY_CLUSTER = not is_kept


def run_task(content: bytes, expected: Versions, modules: tuple[tuple[str, str], ...]) -> bytes:
    """Run a task, in a worker, and return its result or what it raised, pickled.

    Args:
        content: the task, pickled.
        expected: the versions that it was pickled with.
        modules: the modules whose classes the task names, of no library whose version is compared, and the digest of each.
    """
    try:
        _check_same(expected, modules)
        task = pickle.loads(content)
        return pickle.dumps(task.run())
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - whatever a task raises is raised to who asked
        return pickle.dumps(_failure(error))


def _check_same(expected: Versions, modules: tuple[tuple[str, str], ...]) -> None:
    theirs = versions()
    if theirs != expected:
        raise EngineError(
            f"The workers of the Ray cluster have other versions than this process. Here: {expected}. There: {theirs}. Install the "
            "same on both sides."
        )
    for name, digest in modules:
        try:
            digest_there = _digest(name)
        except ImportError as error:
            raise EngineError(
                f"The workers of the Ray cluster cannot import {name!r}, which a task needs: {error}. Install it in their image, "
                "or name its package in ray.py_modules."
            ) from error
        if digest_there != digest:
            raise EngineError(
                f"The module {name!r} is not the same on the workers of the Ray cluster as here. Install the same version on both "
                "sides."
            )


@cache
def _digest(name: str) -> str:
    """Return the digest of a module's file; empty of one that has none."""
    file = getattr(import_module(name), "__file__", None)
    return sha256(Path(file).read_bytes()).hexdigest() if file else ""


class _TaskPickler(pickle.Pickler):
    """Pickle a task, and note the modules of which the worker must have the same code."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.modules: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        """Note whose class or function a value is; it is pickled as any other."""
        if isinstance(value, (type, FunctionType)):
            module = value.__module__
            if module == "__main__" or module.startswith("definitions_"):
                raise EngineError(
                    f"{value.__qualname__!r} is defined in {'a script' if module == '__main__' else 'the definitions'}, and "
                    "workers of a cluster import code by its name. Put it into a package that is installed on both sides."
                )
            if module.partition(".")[0] not in _OURS:
                self.modules.add(module)
        return NotImplemented


def _pickled(task: Task[Any]) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    file = BytesIO()
    pickler = _TaskPickler(file)
    pickler.dump(task)
    return file.getvalue(), tuple((name, _digest(name)) for name in sorted(pickler.modules))


def _failure(error: Exception) -> _Failure:
    # NOTE: the place alone. What an error was raised from may quote values of personal features.
    place = "" if isinstance(error, FeatureStoreError) else "".join(traceback.format_tb(error.__traceback__))
    cause = error.__cause__
    return _Failure(_picklable(error), None if cause is None else _picklable(cause), place)


def _picklable(error: BaseException) -> BaseException:
    """Return an error as it is where it arrives as it is, else one that says what it was."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an error of whatever library, whose pickling may fail in any way
        return EngineError(f"A task failed with {type(error).__name__}: {_first_line(error)}.")
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
