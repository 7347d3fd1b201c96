"""Tokens: what an issuer signed counts, and nothing else does, however it is dressed."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import BadStatusLine
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from featurestore.access.grants import Grant
from featurestore.clock import utc_now
from featurestore.errors import ConfigError, Unauthenticated, UnavailableError
from featurestore.server.security import oidc as tokens
from featurestore.server.security.oidc import KeySet, Tokens
from featurestore.settings_loader import load_settings
from tests.server.issuers import AUDIENCE, Issuer

GRANTS = {"ml": "reader service:delay_model", "dpo": "reader project pii, writer view:weather"}


@pytest.fixture(scope="module")
def lasting() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(lasting: Issuer) -> Issuer:
    for kid in lasting.keys.keys() - {"first"}:
        del lasting.keys[kid]
    lasting.asked.clear()
    lasting.broken = False
    return lasting


def tokens_of(issuer: Issuer, folder: Path, /, **settings: Any) -> Tokens:
    given = {"issuer": issuer.url, "audience": AUDIENCE, "grants": GRANTS, "leeway": "5s", **settings}
    return Tokens(load_settings(folder, oidc=given).oidc, utc_now)


def claims_of(issuer: Issuer, **other: Any) -> dict[str, Any]:
    made = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 600, "roles": ["ml"], **other}
    return {name: value for name, value in made.items() if value is not None}


def verify(known: Tokens, *texts: str) -> list[Any]:
    async def each(text: str) -> Any:
        try:
            return await known.verify(text)
        except (Unauthenticated, UnavailableError) as error:
            return error

    async def all_of() -> list[Any]:
        found = await asyncio.gather(*map(each, texts))
        if known._keys._fetching is not None:  # what is fetched without anybody waiting
            await known._keys._fetching
        return found

    return asyncio.run(all_of())


@pytest.mark.parametrize("jwks", [True, False], ids=["by url", "by discovery"])
def test_a_token_says_who_asks_and_what_they_are_granted(issuer: Issuer, tmp_path: Path, jwks: bool) -> None:
    known = tokens_of(issuer, tmp_path, jwks=f"{issuer.url}/jwks" if jwks else "")
    [found] = verify(known, issuer.sign(claims_of(issuer)))
    assert found == ("ann", (Grant("reader", "service", "delay_model"),))
    assert issuer.asked["/.well-known/openid-configuration"] == (0 if jwks else 1)
    assert issuer.asked["/jwks"] == 1


@pytest.mark.parametrize(
    ("claim", "value", "grants"),
    [
        ("roles", ["dpo", "ml"], "reader project pii, writer view:weather, reader service:delay_model"),
        ("roles", "ml dpo", "reader service:delay_model, reader project pii, writer view:weather"),
        ("roles", ["unheard", 7, None], ""),
        ("roles", {"ml": True}, ""),
        ("roles", None, ""),
        ("realm_access.roles", ["ml"], ""),
    ],
)
def test_names_in_the_claim_are_granted_what_the_settings_say(
    issuer: Issuer, tmp_path: Path, claim: str, value: Any, grants: str
) -> None:
    known = tokens_of(issuer, tmp_path, claim=claim)
    [(_, found)] = verify(known, issuer.sign(claims_of(issuer, roles=value)))
    assert found == (Grant.parse_all(grants) if grants else ())


def test_a_claim_may_lie_deeper(issuer: Issuer, tmp_path: Path) -> None:
    known = tokens_of(issuer, tmp_path, claim="realm_access.roles")
    [(_, found)] = verify(known, issuer.sign(claims_of(issuer, realm_access={"roles": ["ml"]})))
    assert found == (Grant("reader", "service", "delay_model"),)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"exp": 1.0}, "expired"),
        ({"exp": None}, "lacks"),
        ({"exp": "soon"}, "is none"),
        ({"exp": 10**400}, "is none"),
        ({"nbf": -(10**400)}, "is none"),
        ({"nbf": 4e9}, "time has not come"),
        ({"iat": 4e9}, "time has not come"),
        ({"aud": "somebody"}, "somebody else"),
        ({"aud": None}, "lacks"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "lacks"),
        ({"sub": None}, "lacks"),
    ],
)
def test_a_token_with_wrong_claims_does_not_count(issuer: Issuer, tmp_path: Path, other: dict[str, Any], said: str) -> None:
    [error] = verify(tokens_of(issuer, tmp_path), issuer.sign(claims_of(issuer, **other)))
    assert isinstance(error, Unauthenticated)
    assert said in str(error)


def test_the_leeway_counts(issuer: Issuer, tmp_path: Path) -> None:
    late = issuer.sign(claims_of(issuer, exp=time.time() - 60))
    [strict] = verify(tokens_of(issuer, tmp_path), late)
    [lenient] = verify(tokens_of(issuer, tmp_path, leeway="2m"), late)
    assert isinstance(strict, Unauthenticated)
    assert lenient[0] == "ann"


def test_d30_times_are_those_of_the_stores_clock(issuer: Issuer, tmp_path: Path) -> None:
    """A token counts at the instant that the clock tells, whatever the system's says."""
    given = {"issuer": issuer.url, "audience": AUDIENCE, "grants": GRANTS, "leeway": "5s"}
    then = datetime(2040, 1, 1, tzinfo=UTC)
    now_valid = issuer.sign(claims_of(issuer))
    then_valid = issuer.sign(claims_of(issuer, exp=then.timestamp() + 60, nbf=then.timestamp() - 60, iat=then.timestamp() - 60))
    known = Tokens(load_settings(tmp_path, oidc=given).oidc, lambda: then)
    [now_found], [then_found] = verify(known, now_valid), verify(known, then_valid)
    assert isinstance(now_found, Unauthenticated)
    assert "expired" in str(now_found)
    assert then_found[0] == "ann"
    [early] = verify(tokens_of(issuer, tmp_path), then_valid)
    assert isinstance(early, Unauthenticated)


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_what_is_not_signed_by_the_issuer_does_not_count(issuer: Issuer, tmp_path: Path) -> None:
    """``alg=none``, the public key as a shared secret, another's key under a known id, a key in the token, cut and mended."""
    claims = claims_of(issuer)
    public = issuer.keys["first"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'first'})}.{encoded(claims)}"
    mac = base64.urlsafe_b64encode(hmac.new(pem, body.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    good = issuer.sign(claims)
    with Issuer() as evil:
        forged = evil.sign(claims)
        carried = jwt.encode(claims, evil.keys["first"], "RS256", headers={"jwk": evil.public("first"), "jku": f"{evil.url}/jwks"})
        attempts = [
            f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(claims)}.",
            f"{encoded({'alg': 'nOnE', 'kid': 'first'})}.{encoded(claims)}.",
            f"{body}.{mac}",
            forged,
            carried,
            good[:-4],
            f"{good}x",
            good.replace(good.split(".")[1], encoded({**claims, "roles": ["dpo"]})),
            "x",
            "a.b.c",
            "..",
            "é.ü.ö",
            f"{encoded({'alg': ['RS256'], 'kid': {}})}.{encoded(claims)}.x",
            f"{encoded({'alg': 'ES256', 'kid': 'first'})}.{encoded(claims)}.{good.split('.')[2]}",
            "x" * 100_000,
        ]
        found = verify(tokens_of(issuer, tmp_path), *attempts)
        assert [type(each) for each in found] == [Unauthenticated] * len(attempts)
        assert evil.asked == {}


def test_a_shared_secret_can_not_be_allowed(issuer: Issuer, tmp_path: Path) -> None:
    for algorithms in (["HS256"], ["RS256", "none"], []):
        with pytest.raises(ConfigError, match="shared secret"):
            tokens_of(issuer, tmp_path, algorithms=algorithms)


def test_curves_count_where_they_are_allowed(issuer: Issuer, tmp_path: Path) -> None:
    issuer.add("curve", curve=True)
    token = issuer.sign(claims_of(issuer), kid="curve", algorithm="ES256")
    [found, refused] = [verify(tokens_of(issuer, tmp_path, **more), token)[0] for more in ({}, {"algorithms": ["RS256"]})]
    assert found[0] == "ann"
    assert isinstance(refused, Unauthenticated)


def test_keys_rotate(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [1000.0]
    monkeypatch.setattr(tokens, "perf_counter", lambda: seconds[0])
    known = tokens_of(issuer, tmp_path)
    old = issuer.sign(claims_of(issuer))
    assert verify(known, old)[0][0] == "ann"
    issuer.add("second")
    new = issuer.sign(claims_of(issuer, sub="bob"), kid="second")
    assert isinstance(verify(known, new)[0], Unauthenticated)  # the issuer was asked a moment ago
    seconds[0] += tokens.AGAIN
    assert verify(known, new)[0][0] == "bob"
    del issuer.keys["first"]
    seconds[0] += tokens.KEEP + 1
    verify(known, new)  # sees that the keys are old, and has them fetched
    seconds[0] += tokens.AGAIN
    assert isinstance(verify(known, old)[0], Unauthenticated)
    issuer.add("first")


def test_a_flood_of_unknown_keys_does_not_hammer_the_issuer(issuer: Issuer, tmp_path: Path) -> None:
    known = tokens_of(issuer, tmp_path)
    good = issuer.sign(claims_of(issuer))
    signed = good.partition(".")[2]
    flood = [f"{encoded({'alg': 'RS256', 'kid': f'k{number}'})}.{signed}" for number in range(500)]
    found = verify(known, *flood, good)
    assert all(isinstance(each, Unauthenticated) for each in found[:-1])
    assert found[-1][0] == "ann"
    assert issuer.asked["/jwks"] == 1


def test_an_issuer_that_is_away_is_no_wrong_token(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [1000.0]
    monkeypatch.setattr(tokens, "perf_counter", lambda: seconds[0])
    known = tokens_of(issuer, tmp_path)
    token = issuer.sign(claims_of(issuer))
    issuer.broken = True
    assert [type(each) for each in verify(known, token, token)] == [UnavailableError] * 2
    assert issuer.asked["/.well-known/openid-configuration"] == 1
    issuer.broken = False
    assert isinstance(verify(known, token)[0], UnavailableError)
    seconds[0] += tokens.AGAIN
    assert verify(known, token)[0][0] == "ann"
    issuer.broken = True  # what is known goes on to count
    seconds[0] += tokens.KEEP + 1
    assert verify(known, issuer.sign(claims_of(issuer, sub="bob")))[0][0] == "bob"


@pytest.mark.parametrize(
    "answer", [b"[" * 100_000, b"\xff", b"null", b"[]", b'{"keys": [5]}', b'{"keys": "abc"}', b'{"issuer": 1}', None]
)
def test_whatever_is_answered_in_an_issuers_place_is_no_wrong_token(
    issuer: Issuer, tmp_path: Path, answer: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(url: str) -> Any:
        if answer is None:
            raise BadStatusLine("SSH-2.0-OpenSSH")  # another server at the address
        return json.loads(answer)

    settings = load_settings(tmp_path, oidc={"issuer": issuer.url, "audience": AUDIENCE}).oidc
    known = Tokens(settings, utc_now, KeySet(issuer.url, fetch=fetch))
    assert [type(each) for each in verify(known, issuer.sign(claims_of(issuer)))] == [UnavailableError]
    assert "cannot be fetched" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"audience": ""}, r"needs oidc\.audience"),
        ({"issuer": "http://issuer.example"}, "must begin with https"),
        ({"jwks": "ftp://issuer.example"}, "must begin with https"),
        ({"grants": {"ml": "reads all"}}, "Invalid grant"),
    ],
)
def test_wrong_settings_are_told(issuer: Issuer, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tokens_of(issuer, tmp_path, **settings)
