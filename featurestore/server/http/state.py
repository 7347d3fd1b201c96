"""The state of an application: what its endpoints are made of, and the objects that each of them has once an application."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

from featurestore.server.backend import Backend
from featurestore.server.decoding.pool import Decoders
from featurestore.server.http.memory import Budget
from featurestore.server.http.pools import Pools
from featurestore.server.limits import Limits
from featurestore.server.security.guard import Guard
from featurestore.server.security.visibility_cache import VisibilityCache
from featurestore.server.telemetry.events import Telemetry

T = TypeVar("T")


@dataclass(frozen=True)
class AppState:
    """What endpoints are made of.

    Args:
        backend: the store that is served.
        limits: the server's limits.
        guard: decides who may do what.
        observer: receives what endpoints do.
        pools: the threads that they work in.
    """

    backend: Backend
    limits: Limits
    guard: Guard
    observer: Telemetry
    pools: Pools
    _parts: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def budget(self) -> Budget:
        """Counts the bytes of the bodies that endpoints work on."""
        return Budget(self.limits.bodies)

    @cached_property
    def decoders(self) -> Decoders:
        """The processes that decode what may be anything."""
        return Decoders(self.limits)

    @cached_property
    def visibility(self) -> VisibilityCache:
        """What each caller may see of the catalog."""
        return VisibilityCache(self.backend, self.guard)

    def part(self, kind: Callable[["AppState"], T]) -> T:
        """Return the application's one object of a kind, made at the first call: the cache of an endpoint, the counts of its work.

        Only for the event loop's thread.
        """
        part: T | None = self._parts.get(kind)
        if part is None:
            part = self._parts[kind] = kind(self)
        return part


def state_of(request: HTTPConnection) -> AppState:
    """Return the state of the application that a request came to."""
    state: AppState = request.app.state.server
    return state
