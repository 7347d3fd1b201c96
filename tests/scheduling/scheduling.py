"""What the scheduler's tests share: pools that run in the caller's thread."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from featurestore import FeatureStore
from featurestore.scheduling.scheduler import Scheduler, TaskResult

KEYS = {"k": str}
FEATURES = {"x": float | None, "n": int}
SECOND = 1_000_000


class Inline(Executor):
    """Does at once, in the caller's thread, what it is given."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(work(*given, **named))
        except BaseException as error:  # noqa: BLE001 - as the real pools do
            future.set_exception(error)
        return future


class Manual(Executor):
    """Keeps what it is given until a test has it done."""

    def __init__(self) -> None:
        self.left: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self.left.append((future, lambda: work(*given, **named)))
        return future

    def do_next(self) -> None:
        future, work = self.left.pop(0)
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - as the real pools do
            future.set_exception(error)


def scheduler_of(
    store: FeatureStore, pool: Executor | None = None, *, most: int = 2, **options: Any
) -> tuple[Scheduler, list[TaskResult]]:
    """A scheduler that works in the caller's thread, and the list of what it tells."""
    told: list[TaskResult] = []
    made = store.scheduler.create(on_result=told.append, **options)
    made._pools = {kind: (pool or Inline(), most) for kind in made._pools}
    return made, told


def states(told: list[TaskResult]) -> list[tuple[str, str]]:
    return [(each.name, each.state) for each in told]
