"""The guard: authenticates callers and authorizes requests. Every route uses it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from starlette.authentication import BaseUser

from featurestore.access.grants import Grant
from featurestore.access.policy import Policy
from featurestore.clock import Clock
from featurestore.config import Settings
from featurestore.definitions.catalog import Catalog
from featurestore.errors import ConfigError, Forbidden, Unauthenticated
from featurestore.server.backend import Backend, backend_of
from featurestore.server.security.api_key_cache import ApiKeyCache
from featurestore.server.security.loopback import check_local, is_loopback
from featurestore.server.security.oidc import Tokens
from featurestore.store import FeatureStore

_log = logging.getLogger("featurestore.server")
_HOW = "Send the header Authorization: Bearer fs_…, with a key that featurestore keys create has made"
_MOST_DECIDED = 4096

Action = Literal["read", "write", "admin"]
Kind = Literal["features", "source", "service", "view", "entity", "catalog", "metrics", "all"]


@dataclass(frozen=True)
class Permission:
    """What a route needs.

    Args:
        action: what it does.
        kind: to what.
    """

    action: Action
    kind: Kind


@dataclass(frozen=True)
class Principal(BaseUser):
    """The caller, as ``request.user`` of a route that needs a permission.

    Args:
        name: the name that stands in the audit log: a key's, or a token's subject.
        key_id: the id of the key; empty where it was none.
        grants: what they may do.
    """

    name: str
    key_id: str = ""
    grants: tuple[Grant, ...] = ()

    def __hash__(self) -> int:
        return hash((self.name, self.key_id))

    @property
    def is_authenticated(self) -> bool:
        """Whether the caller is known by a key or a token."""
        return bool(self.key_id or self.grants)

    @property
    def display_name(self) -> str:
        """The name in the audit log."""
        return self.name

    @property
    def identity(self) -> str:
        """The id of the key, or a token's subject."""
        return self.key_id or self.name


@dataclass(frozen=True)
class Resource:
    """What is asked for, as the request names it.

    Args:
        kind: what the names are. Three are without names: ``catalog`` is the lists of what there is, each of which has what
                the caller may see; ``metrics`` is the server's; ``all`` is the whole project.
        names: services, views, features or sources; of features as they are written, before services are taken apart.
        project: the project.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    project: str = ""


class Guard(Protocol):
    """Decide on every request."""

    async def admit(self, scope: Mapping[str, Any]) -> Principal:
        """Return who asks, by the headers of a request's ASGI scope.

        Raises:
            Unauthenticated: it does not say, or says something that is not so.
        """

    def check(self, principal: Principal, action: str, resource: Resource) -> None:
        """Let a principal do something, or raise.

        Raises:
            Forbidden: they may not.
        """


class OpenGuard:
    """Admit everybody to everything; or, for a server on a loopback address, this machine until there is a key.

    Args:
        keyed: the guard that decides once there is a key; None where everybody is admitted for good.
        keys: the registry's keys.
        origins: the origins whose pages may ask, beside the server's own.
    """

    _ANYBODY = Principal("anybody")

    def __init__(self, keyed: "AccessGuard | None" = None, keys: "ApiKeyCache | None" = None, origins: Sequence[str] = ()) -> None:
        self._keyed = keyed
        self._keys = keys
        self._origins = origins

    async def admit(self, scope: Mapping[str, Any]) -> Principal:
        """Return nobody in particular.

        Raises:
            Unauthenticated: there is a key by now, and it does not say who asks.
            Forbidden: there is none, and it is not this machine that asks.
            UnavailableError: whether there is one cannot be found out now.
        """
        if self._keyed is None or self._keys is None:
            return self._ANYBODY
        if await self._keys.any():
            return await self._keyed.admit(scope)
        check_local(scope, self._origins)
        return self._ANYBODY

    def check(self, principal: Principal, action: str, resource: Resource) -> None:
        """Allow everything to callers that need no key."""
        if self._keyed is not None and principal is not self._ANYBODY:
            self._keyed.check(principal, action, resource)


class AccessGuard:
    """Admit who has a key or a token, and let them do what they are granted. What nothing grants is refused.

    Args:
        catalog: gives what is applied.
        project: the project that is served.
        keys: the registry's keys.
        tokens: verifies tokens; None where there is no issuer.
        clock: tells the present, at which a key may have expired.
    """

    def __init__(
        self, catalog: Callable[[], Catalog], project: str, keys: ApiKeyCache, tokens: Tokens | None, clock: Clock
    ) -> None:
        self._catalog = catalog
        self._project = project
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        self._permits = Policy(Catalog())
        self._judged: Catalog | None = None
        self._decided: dict[tuple[Principal, str, Resource], str] = {}

    async def admit(self, scope: Mapping[str, Any]) -> Principal:
        """Return who asks.

        Raises:
            Unauthenticated: there is no key or token, or one that does not count.
            UnavailableError: whether it counts cannot be found out now.
        """
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            raise Unauthenticated(f"{'It says several things who asks' if given else 'It does not say who asks'}. {_HOW}.")
        scheme, _, text = given[0].decode("latin-1").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthenticated(f"The header Authorization is of another form. {_HOW}.")
        if text.startswith("fs_"):
            return await self._by_key(text)
        if self._tokens is None:
            raise Unauthenticated(f"That is not a key, and no issuer of tokens is configured (oidc.issuer). {_HOW}.")
        subject, grants = await self._tokens.verify(text)
        return Principal(subject, "", grants)

    async def _by_key(self, text: str) -> Principal:
        key = await self._keys.find(text)
        if key is None:
            raise Unauthenticated("The key is not one of this project's. featurestore keys list shows them.")
        state = key.state(self._clock())
        if state != "active":
            raise Unauthenticated(f"The key is {state}. Ask for another one.")
        return Principal(key.name, key.id, key.grants)

    def check(self, principal: Principal, action: str, resource: Resource) -> None:
        """Let a principal do something that is granted.

        Raises:
            Forbidden: it is not.
        """
        catalog = self._catalog()
        if catalog is not self._judged:
            self._judged, self._permits, self._decided = catalog, Policy(catalog), {}
        question = (principal, action, resource)
        refusal = self._decided.get(question)
        if refusal is None:
            if resource.project in ("", self._project):
                refusal = self._permits.refusal(principal.grants, action, resource.kind, resource.names)
            else:
                refusal = "may not do that; another project is served here"
            if len(self._decided) >= _MOST_DECIDED:
                self._decided.clear()
            self._decided[question] = refusal
        if refusal:
            raise Forbidden(f"{principal.name!r} {refusal}.")


def admission(settings: Settings, *, keys: bool) -> Literal["everybody", "this machine", "keys"]:
    """Return whom a server with these settings admits.

    Args:
        settings: the settings.
        keys: whether there is a key.

    Example:
        >>> admission(Settings(), keys=False), admission(Settings(), keys=True), admission(Settings(access="open"), keys=True)
        ('this machine', 'keys', 'everybody')
    """
    if settings.access == "open":
        return "everybody"
    open_till_then = settings.access == "auto" and is_loopback(settings.server.host) and not settings.oidc.issuer
    return "this machine" if open_till_then and not keys else "keys"


def make_guard(store: FeatureStore | Backend) -> Guard:
    """Return the guard that a project's settings ask for.

    Raises:
        ConfigError: the settings of the issuer are wrong.
    """
    backend = backend_of(store)
    settings = backend.settings
    admitted = admission(settings, keys=False)
    if admitted == "everybody":
        return OpenGuard()
    tokens = Tokens(settings.oidc, backend.clock) if settings.oidc.issuer else None
    ring = ApiKeyCache(backend.keys)
    guard = AccessGuard(lambda: backend.catalog, settings.project, ring, tokens, backend.clock)
    return OpenGuard(guard, ring, settings.server.origins) if admitted == "this machine" else guard


def require_access(store: FeatureStore | Backend) -> None:
    """Refuse to serve others than this machine before it is said who they may be.

    Raises:
        ConfigError: nothing is configured, and the address can be reached from elsewhere; or what is configured is wrong.
    """
    backend = backend_of(store)
    settings = backend.settings
    make_guard(backend)
    if is_loopback(settings.server.host):
        return
    if settings.access == "open":
        _log.warning('Everybody who reaches %s is admitted, for access is "open".', settings.server.host)
    elif settings.access == "auto" and not settings.oidc.issuer:
        now = backend.clock()
        if not any(key.state(now) == "active" for key in backend.keys.list()):
            raise ConfigError(
                f"server.host={settings.server.host!r} can be reached from elsewhere, and there is no key. Make one (featurestore "
                'keys create NAME --role reader --all), configure oidc.issuer, say access="open" where something else lets in only '
                "whom it should, or listen on 127.0.0.1."
            )
