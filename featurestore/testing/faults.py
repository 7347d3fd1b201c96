"""Faults on purpose: a call that fails at its turn, or ends as if the process had been killed there."""

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, TypeVar, cast

import pytest

T = TypeVar("T")

_PARTS = frozenset({"log", "marks", "shelf"})
"""The attributes of ports that are ports themselves; their calls count as calls of the whole."""


class Killed(BaseException):
    """What was being done ends here, as if the process had been killed: no ``except Exception`` catches it."""


@contextmanager
def interrupted(
    at: int | None, *calls: tuple[Any, str], error: BaseException | type[BaseException] = Killed
) -> Iterator[list[int]]:
    """Let some functions fail from their nth call on, wherever in the process they are called.

    Args:
        at: how many calls succeed; None for all of them.
        calls: the functions, each as its owner and its name there: ``(Path, "rename")``.
        error: what is raised. ``Killed`` ends the block without an error; any other goes on through it.

    Yields:
        A list of one number: how many calls are left. Below zero, so many have failed.

    Example:
        >>> class Disk:
        ...     def write(self, text):
        ...         print(text)
        >>> with interrupted(1, (Disk, "write")):
        ...     for text in ("first", "second"):
        ...         Disk().write(text)
        first
    """
    left = [0 if at is None else at]
    if at is None:
        yield left
        return

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def counting(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise error
            return work(*arguments, **options)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in calls:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        with suppress(Killed):
            yield left


def faulty(
    target: T,
    fail_at: int,
    error: BaseException | type[BaseException] = Killed,
    *,
    methods: Collection[str] | None = None,
    done: bool = False,
    lasting: bool = False,
) -> T:
    """Return a port that behaves like another one, but for one call that fails.

    Args:
        target: a store, a reader, a consumer, an engine.
        fail_at: which call fails, 1 for the first. The calls of its parts (``log``, ``marks``, ``shelf``) count too.
        error: what the call raises.
        methods: the methods whose calls count; None for all.
        done: whether the call does its work before it fails, as where an answer gets lost.
        lasting: whether every later call fails too.

    Example:
        >>> class Store:
        ...     def write(self, value):
        ...         return value
        >>> store = faulty(Store(), fail_at=2, error=OSError("the disk is full"))
        >>> store.write(1)
        1
        >>> store.write(2)
        Traceback (most recent call last):
        OSError: the disk is full
        >>> store.write(3)
        3
    """
    return cast("T", _Faulty(target, [fail_at], error, methods, done, lasting))


class _Faulty:
    """See ``faulty``; the parts of a port share one countdown."""

    def __init__(
        self,
        target: Any,
        left: list[int],
        error: BaseException | type[BaseException],
        methods: Collection[str] | None,
        done: bool,
        lasting: bool,
    ) -> None:
        self._target, self._left, self._error = target, left, error
        self._methods, self._done, self._lasting = methods, done, lasting

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in _PARTS:
            return _Faulty(value, self._left, self._error, self._methods, self._done, self._lasting)
        if not callable(value) or (self._methods is not None and name not in self._methods):
            return value
        return self._counting_async(value) if inspect.iscoroutinefunction(value) else self._counting(value)

    def _counting(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def counting(*arguments: Any, **options: Any) -> Any:
            fails = self._fails()
            if fails and not self._done:
                raise self._error
            result = work(*arguments, **options)
            if fails:
                raise self._error
            return result

        return counting

    def _counting_async(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        async def counting(*arguments: Any, **options: Any) -> Any:
            fails = self._fails()
            if fails and not self._done:
                raise self._error
            result = await work(*arguments, **options)
            if fails:
                raise self._error
            return result

        return counting

    def _fails(self) -> bool:
        self._left[0] -= 1
        return self._left[0] == 0 or (self._lasting and self._left[0] < 0)
