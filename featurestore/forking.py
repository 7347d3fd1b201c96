"""Forking: locks and threads that a forked process must recreate.

A server that loads its application before it forks, or ``multiprocessing``, copies a process in the midst of whatever its other
threads do. Objects that keep locks or threads are notified of the fork in the child, before any other code of it runs.
"""

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What must know that its process was forked."""

    def after_fork(self) -> None:
        """Recreate locks, and forget threads and connections. Called in the child, which has only one thread."""


_LIVING: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def notify_of_forks(owner: Forked) -> None:
    """Have ``owner.after_fork()`` called in each child that this process forks, as long as the owner lives."""
    _LIVING.add(owner)


def _notify() -> None:
    for owner in list(_LIVING):
        owner.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_notify)


_first_users: dict[str, int] = {}


def is_first_user(library: str) -> bool:
    """Return whether this process may use a library whose threads a forked child has not: whether none above it has used it."""
    return _first_users.setdefault(library, os.getpid()) == os.getpid()
