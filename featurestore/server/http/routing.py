"""Routes: an address, its permission, and its endpoint."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from featurestore.server.decoding.pool import Decoders
from featurestore.server.http.context import RequestContext
from featurestore.server.http.memory import Budget
from featurestore.server.http.pools import Pools
from featurestore.server.limits import Limits
from featurestore.server.security.guard import Action, Kind
from featurestore.server.security.visibility_cache import VisibilityCache
from featurestore.server.telemetry.events import Telemetry

if TYPE_CHECKING:
    from featurestore.server.backend import Backend

Endpoint = Callable[[RequestContext], Awaitable[None]]


@dataclass(frozen=True)
class Permission:
    """What a route needs.

    Args:
        action: what it does; "none" is open to everybody, and for what says nothing of the project.
        kind: to what. Features, and a source in the body, the endpoint names to the guard itself (``RequestContext.check``), and
            cannot answer before; all else is asked before the endpoint runs.
    """

    action: Action | Literal["none"]
    kind: Kind = "all"


@dataclass(frozen=True)
class AppState:
    """What endpoints are made of.

    Args:
        backend: the store that is served.
        limits: the server's limits.
        observer: receives what they do.
        pools: the threads that they work in.
    """

    backend: "Backend"
    limits: Limits
    observer: Telemetry
    pools: Pools

    @cached_property
    def budget(self) -> Budget:
        """Counts the bytes of the bodies that they work on."""
        return Budget(self.limits.bodies)

    @cached_property
    def decoders(self) -> Decoders:
        """The processes that decode what may be anything."""
        return Decoders(self.limits)

    @cached_property
    def sights(self) -> VisibilityCache:
        """What each of those who ask may see of the catalog."""
        return VisibilityCache(self.backend)


@dataclass(frozen=True)
class RouteSpec:
    """One route.

    Args:
        method: the HTTP method.
        path: the address; ``{name}`` stands for a part of it.
        need: what it needs.
        make: makes its endpoint.
        summary: what it does, for the OpenAPI document; empty for what is not in it.
        timed: whether ``server.request_timeout`` bounds it.
    """

    method: str
    path: str
    need: Permission
    make: Callable[[AppState], Endpoint]
    summary: str = ""
    timed: bool = True
