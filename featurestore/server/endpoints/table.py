"""The table of routes: every address of the server, and the permission that it needs."""

from featurestore.server.endpoints.catalog import ListEndpoint, OneEndpoint, all_of, entities, services, sources, views
from featurestore.server.endpoints.docs_ui import file, page, root
from featurestore.server.endpoints.health import MetricsEndpoint, ReadyEndpoint, live
from featurestore.server.endpoints.online import OnlineEndpoint
from featurestore.server.endpoints.push import PushEndpoint
from featurestore.server.endpoints.training import TrainingEndpoint
from featurestore.server.http.routing import Permission, RouteSpec
from featurestore.server.openapi.document import OpenAPIEndpoint

ROUTES: tuple[RouteSpec, ...] = (
    RouteSpec(
        "POST", "/v1/online", Permission("read", "features"),
        OnlineEndpoint, "Look features up",
    ),
    RouteSpec(
        "POST", "/v1/training", Permission("read", "features"),
        TrainingEndpoint, "Fetch a training frame", timed=False,
    ),
    RouteSpec(
        "POST", "/v1/push/{source}", Permission("write", "source"),
        PushEndpoint, "Push rows of a source into both stores",
    ),
    RouteSpec(
        "GET", "/v1/services", Permission("read", "catalog"),
        lambda parts: ListEndpoint(parts.sights, "services", all_of(services)), "List the feature services",
    ),
    RouteSpec(
        "GET", "/v1/services/{name}", Permission("read", "service"),
        lambda parts: OneEndpoint(parts.sights, "applied feature service", services), "Tell of one feature service",
    ),
    RouteSpec(
        "GET", "/v1/views", Permission("read", "catalog"),
        lambda parts: ListEndpoint(parts.sights, "views", all_of(views)), "List the feature views, on-demand views among them",
    ),
    RouteSpec(
        "GET", "/v1/views/{name}", Permission("read", "view"),
        lambda parts: OneEndpoint(parts.sights, "applied feature view", views), "Tell of one feature view",
    ),
    RouteSpec(
        "GET", "/v1/entities", Permission("read", "catalog"),
        lambda parts: ListEndpoint(parts.sights, "entities", entities), "List the entities",
    ),
    RouteSpec(
        "GET", "/v1/sources", Permission("read", "catalog"),
        lambda parts: ListEndpoint(parts.sights, "sources", sources), "List the sources",
    ),
    RouteSpec(
        "GET", "/openapi.json", Permission("read", "catalog"),
        lambda parts: OpenAPIEndpoint(parts, lambda: ROUTES),
    ),
    RouteSpec("GET", "/", Permission("none"), lambda _: root),
    RouteSpec("GET", "/docs", Permission("none"), lambda _: page),
    RouteSpec("GET", "/docs/{file}", Permission("none"), lambda _: file),
    RouteSpec("GET", "/metrics", Permission("read", "metrics"), lambda parts: MetricsEndpoint(parts.observer, parts.pools)),
    RouteSpec("GET", "/healthz", Permission("none"), lambda _: live, "Tell whether the process lives"),
    RouteSpec("GET", "/readyz", Permission("none"), lambda parts: ReadyEndpoint(parts.backend, parts.pools),
              "Tell whether it can answer"),
)  # fmt: skip
