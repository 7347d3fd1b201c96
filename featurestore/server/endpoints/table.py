"""The table of routes: every route of the server, with the permission that it needs."""

from featurestore.server.endpoints import catalog, docs_ui, health, online, push, training
from featurestore.server.http.routing import ApiRoute
from featurestore.server.openapi import document

ROUTES: tuple[ApiRoute, ...] = (
    *online.routes,  # the first, for routes are tried in turn
    *training.routes,
    *push.routes,
    *catalog.routes,
    *document.routes,
    *docs_ui.routes,
    *health.routes,
)
