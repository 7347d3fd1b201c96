"""Every route is in the table, and says what it needs."""

from typing import Any

import pytest
from starlette.routing import Route

from featurestore import FeatureStore
from featurestore.errors import Forbidden, Unauthenticated
from featurestore.server.access import Guard, Principal, Resource
from featurestore.server.app import Door, create_app
from featurestore.server.routes import ROUTES
from featurestore.server.visit import Visit

OPEN = {"/healthz", "/readyz", "/docs", "/docs/{file}"}
"""What says nothing of the project."""


def test_the_application_has_the_routes_of_the_table_and_no_other(lab: FeatureStore) -> None:
    app = create_app(lab)
    found = []
    for route in app.routes:
        assert isinstance(route, Route)
        assert isinstance(route.app, Door)
        found.append(((route.methods or set()) - {"HEAD"}, route.path, route.app.spec))
    assert found == [({spec.method}, spec.path, spec) for spec in ROUTES]


@pytest.mark.parametrize("spec", ROUTES, ids=lambda spec: f"{spec.method} {spec.path}")
def test_a_route_states_what_it_needs(spec: Any) -> None:
    assert spec.need.action in ("read", "write", "admin", "none")
    assert (spec.need.action == "none") == (spec.path in OPEN)


def test_an_endpoint_that_does_not_ask_the_guard_cannot_answer() -> None:
    visit = Visit({"path": "/x", "headers": []}, None, None, None, "read")  # type: ignore[arg-type]  # not needed here
    answer = visit.answer(b"", b"text/plain")
    with pytest.raises(AssertionError, match="before the guard was asked"):
        answer.send(None)


class Closed(Guard):
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
