"""OpenID Connect tokens: verifies JWTs, and maps their claims to grants.

Only signatures by a public key count: ``none`` and the HMACs (HS256 …) are refused before a key is looked at, so nobody can
pass the issuer's public key off as a shared secret. Keys come from the issuer's JWKS and are kept; a key nobody has heard of
makes it be fetched again, but not more often than every few seconds, however many such tokens come.
"""

import asyncio
import hashlib
import json
import logging
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from time import perf_counter
from typing import Any

import jwt

from featurestore.access.grants import Grant
from featurestore.clock import Clock, to_micros
from featurestore.config import OidcSettings
from featurestore.errors import ConfigError, Unauthenticated, UnavailableError
from featurestore.server.security.loopback import is_loopback_url

_log = logging.getLogger("featurestore.server")

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""The algorithms that a setting may allow: those with a public key."""

KEEP = 600.0
"""After how many seconds the issuer's keys are fetched again."""
AGAIN = 10.0
"""How many seconds lie between two fetches, whatever tokens come."""
VERIFIED = 60.0
"""For how many seconds a token that was verified is not verified again."""

_LONGEST_TOKEN = 16_384
_LARGEST_DOCUMENT = 1 << 20
_SECONDS = 5.0
_MOST_VERIFIED = 4096

Fetch = Callable[[str], Any]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it could lead from HTTPS to anywhere."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def fetch_json(url: str) -> Any:
    """Return the JSON document at a URL; it must come within seconds, be no larger than a MiB, and be there itself."""
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(url, timeout=_SECONDS) as answer:
        text = answer.read(_LARGEST_DOCUMENT + 1)
    if len(text) > _LARGEST_DOCUMENT:
        raise ValueError("it is larger than a MiB")
    return json.loads(text)


class KeySet:
    """The issuer's public keys, by their ids.

    Args:
        issuer: the issuer.
        url: where its JWKS is; empty to ask its ``.well-known/openid-configuration``.
        fetch: gets a JSON document; blocks.
    """

    def __init__(self, issuer: str, url: str = "", fetch: Fetch = fetch_json) -> None:
        self._issuer = issuer
        self._url = url
        self._fetch = fetch
        self._keys: Mapping[str, jwt.PyJWK] | None = None
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key of an id, or without an id the only one there is; None where there is none.

        Raises:
            UnavailableError: the issuer's keys could not be fetched yet.
        """
        now = perf_counter()
        if self._keys is None:
            await self._renew(now)
        elif now - self._fetched_at > KEEP:
            self._begin(now)
        key = self._find(kid)
        if key is None and kid is not None:
            await self._renew(now)
            key = self._find(kid)
        if self._keys is None:
            raise UnavailableError("The issuer's keys cannot be fetched. Try again later.", AGAIN)
        return key

    def _find(self, kid: str | None) -> jwt.PyJWK | None:
        keys = self._keys or {}
        return keys.get(kid) if kid is not None else next(iter(keys.values())) if len(keys) == 1 else None

    async def _renew(self, now: float) -> None:
        self._begin(now)
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    def _begin(self, now: float) -> None:
        if self._fetching is None and now - self._tried_at >= AGAIN:
            self._tried_at = now
            self._fetching = asyncio.create_task(self._refetch())

    async def _refetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(self._read)
            self._fetched_at = perf_counter()
        except (
            OSError,
            HTTPException,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
            jwt.PyJWTError,
        ) as error:
            _log.warning("The keys of the issuer %s cannot be fetched: %s", self._issuer, error)
        finally:
            self._fetching = None

    def _read(self) -> Mapping[str, jwt.PyJWK]:
        url = self._url
        if not url:
            configuration = self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if configuration["issuer"] != self._issuer:
                raise ValueError(f"its configuration is that of {configuration['issuer']!r}")
            url = configuration["jwks_uri"]
            check_url("the issuer's jwks_uri", url)
        keys = {}
        for number, published in enumerate(self._fetch(url)["keys"]):
            if published.get("use", "sig") == "sig" and published.get("kty") in ("RSA", "EC", "OKP"):
                try:
                    keys[published.get("kid", f"#{number}")] = jwt.PyJWK(published)
                except jwt.PyJWTError as error:  # of a kind that is not known here; others may be
                    _log.warning("A key of the issuer %s cannot be used: %s", self._issuer, error)
        return keys


def check_url(what: str, url: str) -> None:
    """Refuse a URL that others could answer to in the issuer's place.

    Raises:
        ConfigError: it is neither https:// nor on this machine.
    """
    if not (url.startswith("https://") or (url.startswith("http://") and is_loopback_url(url))):
        raise ConfigError(f"{what} is {url!r}; it must begin with https://.")


class Tokens:
    """Verifies tokens.

    Args:
        settings: what counts.
        clock: tells the present, for how long a verified token is remembered.
        keys: the issuer's keys; by default those at its address.

    Raises:
        ConfigError: the settings are wrong.
    """

    def __init__(self, settings: OidcSettings, clock: Clock, keys: KeySet | None = None) -> None:
        check_url("oidc.issuer", settings.issuer)
        if settings.jwks:
            check_url("oidc.jwks", settings.jwks)
        if not settings.audience:
            raise ConfigError("oidc.issuer needs oidc.audience: else every token of the issuer counts, whomever it is meant for.")
        wrong = [algorithm for algorithm in settings.algorithms if algorithm not in ALGORITHMS]
        if wrong or not settings.algorithms:
            known = ", ".join(sorted(ALGORITHMS))
            raise ConfigError(f"oidc.algorithms has {wrong}; there is {known}. A shared secret never counts.")
        self._settings = settings
        self._clock = clock
        self._keys = keys or KeySet(settings.issuer, settings.jwks)
        self._grants = {name: Grant.parse_all(text) for name, text in settings.grants.items()}
        self._verified: dict[bytes, tuple[float, tuple[str, tuple[Grant, ...]]]] = {}

    async def verify(self, token: str) -> tuple[str, tuple[Grant, ...]]:
        """Return the subject of a token and what its claims grant.

        Raises:
            Unauthenticated: it is not a token, or not a trusted one.
            UnavailableError: the issuer's keys could not be fetched yet.
        """
        if len(token) > _LONGEST_TOKEN:
            raise Unauthenticated("The token is too long.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        until, known = self._verified.get(digest, (0.0, None))
        if known is not None and perf_counter() < until:
            return known
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in self._settings.algorithms:
                raise Unauthenticated("The token is signed in a way that is not allowed here (oidc.algorithms).")
            key = await self._keys.key(kid)
            if key is None:
                raise Unauthenticated("The token is signed by a key that the issuer does not have.")
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                # Times are checked by the store's clock below, not by the system's.
                options={
                    "require": ["exp", "iss", "aud", "sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                },
            )  # fmt: skip
            self._check_times(claims)
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError) as error:  # 10**400 is a number in JSON, and no float
            raise Unauthenticated(f"The token does not count: {_said(error)}") from error
        known = (str(claims["sub"]), self._granted(claims))
        self._remember(digest, claims["exp"], known)
        return known

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        """Refuse a token outside its time.

        Raises:
            PyJWTError: its time is over, or has not come yet.
        """
        now, leeway = to_micros(self._clock()) / 1e6, self._settings.leeway.total_seconds()
        instants = {name: _instant(name, claims[name]) for name in ("exp", "nbf", "iat") if name in claims}
        if instants["exp"] <= now - leeway:
            raise jwt.ExpiredSignatureError
        if max(instants.get("nbf", 0.0), instants.get("iat", 0.0)) > now + leeway:
            raise jwt.ImmatureSignatureError

    def _granted(self, claims: Mapping[str, Any]) -> tuple[Grant, ...]:
        """Return what the names in the claim grant; a name that the settings do not have grants nothing."""
        value: Any = claims
        for part in self._settings.claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        names: Iterable[Any] = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
        granted = [grant for name in names if isinstance(name, str) for grant in self._grants.get(name, ())]
        return tuple(dict.fromkeys(granted))

    def _remember(self, digest: bytes, expires: float, known: tuple[str, tuple[Grant, ...]]) -> None:
        left = expires + self._settings.leeway.total_seconds() - to_micros(self._clock()) / 1e6
        if left > 0:
            if len(self._verified) >= _MOST_VERIFIED:
                self._verified.clear()
            self._verified[digest] = (perf_counter() + min(left, VERIFIED), known)


def _instant(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise jwt.DecodeError(f"{name} is not a time")
    return float(value)


def _said(error: Exception) -> str:
    """Return what is wrong with a token, without anything that it says."""
    reasons = {
        jwt.ExpiredSignatureError: "it has expired",
        jwt.ImmatureSignatureError: "its time has not come yet",
        jwt.InvalidAudienceError: "it is meant for somebody else",
        jwt.InvalidIssuerError: "another issuer made it",
        jwt.InvalidSignatureError: "its signature is wrong",
        jwt.MissingRequiredClaimError: "it lacks one of exp, iss, aud and sub",
    }
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), "it is none") + "."
