"""Attributes that are computed once, at first use, by whichever thread comes first."""

from collections.abc import Callable
from contextlib import ExitStack
from threading import RLock
from typing import Any, Generic, TypeVar, overload

from featurestore.errors import ClosedError
from featurestore.forking import notify_of_forks

ValueT = TypeVar("ValueT")


class MadeOnce:
    """An object whose ``@once`` attributes are made at first use, under one lock. After ``close`` none can be made.

    Attributes decorated with ``@closed_with_owner`` are closed by ``close``, the last one made first.
    """

    def __init__(self) -> None:
        self._closed = False
        self._to_close = ExitStack()
        self._kept: dict[str, Any] = {}
        self.after_fork()
        notify_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked.after_fork``."""
        self._making = RLock()

    def require_open(self) -> None:
        """Raise ``ClosedError`` if the object is closed."""
        if self._closed:
            raise ClosedError

    def made(self, name: str) -> Any:
        """Return an attribute if it has been made, else None; nothing is made."""
        return self.__dict__.get(name)

    def keep(self, name: str, make: Callable[[], ValueT]) -> ValueT:
        """Return a value that is made once, as ``@once`` makes attributes, for an object that lives shorter than this one.

        Raises:
            ClosedError: this object is closed.
        """
        with self._making:
            self.require_open()
            if name not in self._kept:
                self._kept[name] = make()
            value: ValueT = self._kept[name]
            return value

    def close(self) -> None:
        """Close the attributes that need it and drop all of them. Idempotent; using the object afterwards is a ``ClosedError``."""
        with self._making:
            self._closed = True
            for name in [name for name in self.__dict__ if isinstance(getattr(type(self), name, None), once)]:
                del self.__dict__[name]
            self._kept.clear()
            to_close = self._to_close.pop_all()
        to_close.close()


class once(Generic[ValueT]):  # noqa: N801 - a decorator, as functools.cached_property is one
    """Turn a method of a ``MadeOnce`` into an attribute: the method runs once, in one thread, while the others wait.

    ``functools.cached_property`` has no lock since Python 3.12: two threads may make two stores, of which one leaks.

    Raises:
        ClosedError: the owner is closed.
    """

    _closes = False

    def __init__(self, make: Callable[[Any], ValueT]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> "once[ValueT]": ...

    @overload
    def __get__(self, owner: MadeOnce, kind: type) -> ValueT: ...

    def __get__(self, owner: MadeOnce | None, kind: type) -> "once[ValueT] | ValueT":
        # Once it is made it is in the owner's dictionary, and Python does not come here again.
        if owner is None:
            return self
        with owner._making:
            owner.require_open()
            if self._name not in owner.__dict__:
                owner.__dict__[self._name] = value_made = self._make(owner)
                if self._closes:
                    owner._to_close.callback(value_made.close)  # type: ignore[attr-defined]  # as the decorator says
            value: ValueT = owner.__dict__[self._name]
            return value


class closed_with_owner(once[ValueT]):  # noqa: N801 - a decorator, as once is
    """As ``once``, for a value whose ``close()`` is called when the owner closes."""

    _closes = True
