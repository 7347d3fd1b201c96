"""Every route is in the table, and says what it needs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from starlette.requests import Request
from starlette.responses import Response

from featurestore import FeatureStore
from featurestore.errors import Forbidden, Unauthenticated
from featurestore.server.app import create_app
from featurestore.server.endpoints.table import ROUTES
from featurestore.server.http.context import RequestContext
from featurestore.server.http.memory import Budget
from featurestore.server.http.routing import ApiRoute
from featurestore.server.security.guard import OpenGuard, Permission, Principal, Resource
from tests.server.conftest import served
from tests.server.test_access import ask

PUBLIC = {"/", "/healthz", "/readyz", "/docs", "/docs/{file}"}
"""What says nothing of the project."""


def test_the_application_has_the_routes_of_the_table_and_no_other(lab: FeatureStore) -> None:
    assert tuple(create_app(lab).routes) == ROUTES
    assert all(isinstance(route, ApiRoute) for route in ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_declares_a_permission_or_that_it_is_public(route: ApiRoute) -> None:
    assert (route.permission is None) == (route.path in PUBLIC)


def test_an_endpoint_that_declares_no_permission_cannot_be_registered() -> None:
    async def undeclared(request: Request) -> Response:
        return Response(b"secret")

    with pytest.raises(TypeError, match="declares no permission"):
        ApiRoute("/x", undeclared)  # type: ignore[arg-type]  # mypy says so, too


ALL_BUT_ASKING = """
import asyncio

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from featurestore import FeatureStore
from featurestore.server.app import create_app
from featurestore.server.http.routing import ApiRoute, requires


@requires("read", "features")
async def forgets(request: Request) -> Response:
    return Response(b"secret")


@requires("read", "features")
async def streams(request: Request) -> Response:
    return StreamingResponse(iter([b"secret"]))


async def undeclared(request: Request) -> Response:
    return Response(b"secret")


async def raw(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


class Raw:
    def __call__(self, scope, receive, send):
        return raw(scope, receive, send)


async def ask(app, path):
    sent, coming = [], [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        return coming.pop() if coming else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    try:
        await app(scope, receive, send)
    except RuntimeError as error:
        print(error)
    return sent


with FeatureStore(".", project="empty") as store:
    app = create_app(store)
    app.router.routes += [
        ApiRoute("/forgets", forgets), ApiRoute("/streams", streams), Route("/undeclared", undeclared), Route("/raw", Raw()),
    ]
    for path in ("/forgets", "/streams", "/undeclared", "/raw"):
        sent = asyncio.run(ask(app, path))
        print([message["status"] for message in sent if "status" in message], "secret" in str(sent))
"""


@pytest.mark.parametrize("options", [("-O",), pytest.param((), marks=pytest.mark.slow)], ids=str)
def test_an_endpoint_that_does_not_ask_the_guard_cannot_answer(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Whatever it is made of, and also where ``python -O`` takes assertions away."""
    command = [sys.executable, *options, "-c", ALL_BUT_ASKING]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.count("answered before the guard was asked\n[500] False\n") == 4, done.stdout


def test_a_guard_that_is_asked_about_nobody_is_not_asked() -> None:
    """Without authentication there is no caller, and without a declared permission no action."""
    context = RequestContext({"path": "/x", "headers": []}, None, None, OpenGuard(), "lab", Budget(1))  # type: ignore[arg-type]  # not needed here
    context.enter("/x", Permission("read", "catalog"))
    with pytest.raises(RuntimeError, match="before the caller is known"):
        context.check("catalog")
    context.scope["user"] = Principal("somebody")
    context.enter("/x", None)
    with pytest.raises(RuntimeError, match="declares no permission"):
        context.check("catalog")


class Closed:
    """Admits nobody, or lets those it admits do nothing; remembers what was asked."""

    def __init__(self, *, admits: bool) -> None:
        self.admits = admits
        self.asked: list[tuple[str, Resource]] = []

    async def admit(self, scope: Any) -> Principal:
        if not self.admits:
            raise Unauthenticated("Give a token.")
        return Principal("somebody")

    def check(self, principal: Principal, action: str, resource: Resource) -> None:
        self.asked.append((action, resource))
        raise Forbidden(f"{principal.name} may not {action}.")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_closed_guard_closes_every_route_that_is_not_open(lab: FeatureStore, route: ApiRoute) -> None:
    """A route that were added would be asked here like all others: without a decision it could not be as it should."""
    for admits, status in ((False, 401), (True, 403)):
        guard = Closed(admits=admits)
        with served(create_app(lab, guard=guard)) as url, httpx.Client(base_url=url) as client:
            answer = ask(client, route.method, route.path, {})
        if route.path in PUBLIC:
            assert (answer.status_code in (200, 307, 404), guard.asked) == (True, [])
            continue
        assert route.permission is not None
        assert answer.status_code == status
        assert [(action, resource.kind, resource.project) for action, resource in guard.asked] == (
            [(route.permission.action, route.permission.kind, "lab")] if admits else []
        )


def test_a_panic_of_polars_is_a_problem_like_any_other(lab: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no ``Exception``: the answer was the server's own "Internal Server Error", in plain text."""

    def panic(*_: object, **__: object) -> None:
        pl.Series([2**31 - 1], dtype=pl.Int32).cast(pl.Date).to_list()

    monkeypatch.setattr(FeatureStore, "push", panic)
    with served(create_app(lab)) as url, httpx.Client(base_url=url) as client:
        answer = client.post("/v1/push/visits", json={"rows": [{"number": 1}]})
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:featurestore:problem:internal")


def test_n13_the_address_alone_leads_to_the_docs(lab: FeatureStore) -> None:
    with served(create_app(lab)) as url:
        answer = httpx.get(url + "/", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "docs")
        assert "Features" in httpx.get(url + "/", follow_redirects=True).text
