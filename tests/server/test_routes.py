"""Every route is in the table, and says what it needs."""

import subprocess
import sys
from typing import Any

import httpx
import polars as pl
import pytest
from starlette.routing import Route

from featurestore import FeatureStore
from featurestore.errors import Forbidden, Unauthenticated
from featurestore.server.app import GuardedRoute, create_app
from featurestore.server.endpoints.table import ROUTES
from featurestore.server.http.context import RequestContext
from featurestore.server.http.routing import RouteSpec
from featurestore.server.security.guard import Principal, Resource
from tests.server.conftest import served
from tests.server.test_access import ask

OPEN = {"/", "/healthz", "/readyz", "/docs", "/docs/{file}"}
"""What says nothing of the project."""


def test_the_application_has_the_routes_of_the_table_and_no_other(lab: FeatureStore) -> None:
    app = create_app(lab)
    found = []
    for route in app.routes:
        assert isinstance(route, Route)
        assert isinstance(route.app, GuardedRoute)
        found.append(((route.methods or set()) - {"HEAD"}, route.path, route.app.spec))
    assert found == [({spec.method}, spec.path, spec) for spec in ROUTES]


@pytest.mark.parametrize("spec", ROUTES, ids=lambda spec: f"{spec.method} {spec.path}")
def test_a_route_states_what_it_needs(spec: Any) -> None:
    assert spec.need.action in ("read", "write", "admin", "none")
    assert (spec.need.action == "none") == (spec.path in OPEN)


def test_an_endpoint_that_does_not_ask_the_guard_cannot_answer() -> None:
    visit = RequestContext({"path": "/x", "headers": []}, None, None, None, "read")  # type: ignore[arg-type]  # not needed here
    answer = visit.answer(b"", b"text/plain")
    with pytest.raises(RuntimeError, match="before the guard was asked"):
        answer.send(None)


def test_an_endpoint_that_does_not_ask_the_guard_cannot_answer_without_assertions_either() -> None:
    """``python -O`` takes assertions away."""
    program = """
from featurestore.server.http.context import RequestContext
assert False, "assertions are there"
visit = RequestContext({"path": "/x", "headers": []}, None, None, None, "read")
for work in (visit.answer(b"", b"text/plain"), visit.stream(None, b"text/plain")):
    try:
        work.send(None)
    except RuntimeError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count("before the guard was asked") == 2


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


@pytest.mark.parametrize("spec", ROUTES, ids=lambda spec: f"{spec.method} {spec.path}")
def test_a_closed_guard_closes_every_route_that_is_not_open(lab: FeatureStore, spec: RouteSpec) -> None:
    """A route that were added would be asked here like all others: without a decision it could not be as it should."""
    for admits, status in ((False, 401), (True, 403)):
        guard = Closed(admits=admits)
        with served(create_app(lab, guard=guard)) as url, httpx.Client(base_url=url) as client:
            answer = ask(client, spec.method, spec.path, {})
        if spec.path in OPEN:
            assert (answer.status_code in (200, 307, 404), guard.asked) == (True, [])
            continue
        assert answer.status_code == status
        assert [(action, resource.kind, resource.project) for action, resource in guard.asked] == (
            [(spec.need.action, spec.need.kind, "lab")] if admits else []
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
