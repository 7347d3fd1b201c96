"""Attributes that are computed once, at first use, by whichever thread comes first."""

from collections.abc import Callable
from threading import RLock
from typing import Any, Generic, Protocol, TypeVar, overload

from featurestore.errors import ClosedError
from featurestore.forking import tell_of_forks

ValueT = TypeVar("ValueT")


class Closing(Protocol):
    """What is to be given back."""

    def close(self) -> None:
        """Gives it back. Closing twice is no error."""


class MadeOnce:
    """Has attributes that are made once. After ``close_made`` none is made any more."""

    def __init__(self) -> None:
        self._closed = False
        self.after_fork()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked.after_fork``."""
        self._making = RLock()

    def require_open(self) -> None:
        """Raises ``ClosedError`` where the owner was closed."""
        if self._closed:
            raise ClosedError

    def close_made(self, names: tuple[str, ...]) -> None:
        """Closes the attributes of these names, as far as they were made, and forgets all that were made."""
        with self._making:
            self._closed = True
            made = {
                name: self.__dict__.pop(name) for name in list(self.__dict__) if isinstance(getattr(type(self), name, None), once)
            }
        for name in names:
            if name in made:
                made[name].close()


class once(Generic[ValueT]):  # noqa: N801 - a decorator, as functools.cached_property is one
    """Makes an attribute of a method of a ``MadeOnce``: called once, by one thread while the others wait.

    ``functools.cached_property`` has no lock since Python 3.12: two threads may make two stores, of which one leaks.

    Raises:
        ClosedError: when it is asked for after its owner was closed.
    """

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
        # Once it is made it stands in the owner's dictionary, and Python does not come here any more.
        if owner is None:
            return self
        with owner._making:
            owner.require_open()
            if self._name not in owner.__dict__:
                owner.__dict__[self._name] = self._make(owner)
            value: ValueT = owner.__dict__[self._name]
            return value
