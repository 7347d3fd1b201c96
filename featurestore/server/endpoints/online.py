"""Look-ups: ``POST /v1/online``, the hot path, and the same of one service, ``POST /v1/services/{name}/online``."""

import binascii
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import InvalidOperation
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import polars as pl
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from featurestore.definitions.catalog import Catalog
from featurestore.definitions.reference import parse_references
from featurestore.dtypes import dtype_name, inner_dtype
from featurestore.errors import FeatureStoreError, LimitError, NotFoundError, RequestError
from featurestore.selection.select import Selection, select
from featurestore.server.http.bodies import check_length, check_size, gather
from featurestore.server.http.content_types import (
    ENCODE,
    JSON,
    LARGE,
    MSGPACK,
    Codec,
    Rows,
    answer_type,
    brackets,
    check_encoding,
    check_shape,
    media_type,
    sayable,
)
from featurestore.server.http.context import KEY, Entities, RequestContext
from featurestore.server.http.handlers import answer_error
from featurestore.server.http.json_values import from_json
from featurestore.server.http.problems import Problem
from featurestore.server.http.routing import ApiRoute, Endpoint
from featurestore.server.http.state import AppState
from featurestore.server.openapi.operation import Operation
from featurestore.server.security.guard import Permission

if TYPE_CHECKING:
    from featurestore.online.plan import OnlinePlan
    from featurestore.retrieval.online_result import OnlineRows

_MOST_KEPT = 1024
_MANY = 20_000
"""From how many values on an answer is made in a thread, so that no other request waits for it."""
_TAKEN = (JSON, MSGPACK)


class ServiceRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A look-up of one service."""

    rows: Annotated[Rows, Meta(description="The rows that are asked about: objects, or columns of one length.")]
    metadata: Annotated[bool, Meta(description="Whether to answer statuses and event times.")] = True
    at: (
        Annotated[
            str,
            Meta(
                description="As of this instant; now where it is left out or null.",
                max_length=200,
                examples=[None],
                extra_json_schema={"format": "date-time"},
            ),
        ]
        | None
    ) = None
    types: Annotated[bool, Meta(description="Whether to tell each feature's dtype.")] = False


class OnlineRequest(ServiceRequest, forbid_unknown_fields=True, kw_only=True):
    """A look-up."""

    features: Annotated[str | list[str], Meta(description="A service, or views and features.")]


class FeatureStatus(StrEnum):
    """What a value is: present; null; expired, which is older than the ttl; or missing, of an unknown entity."""

    PRESENT = "present"
    NULL = "null"
    EXPIRED = "expired"
    MISSING = "missing"


class OnlineResponse(msgspec.Struct):
    """The answer to a look-up: a list for each feature, with a value a row.

    It is the shape alone: an answer is encoded from its columns as they are.
    """

    features: dict[str, list[Any]]
    status: Annotated[dict[str, list[FeatureStatus]], Meta(description="Of each value.")] | UnsetType = UNSET
    event_time: (
        Annotated[dict[str, list[Annotated[datetime, Meta(tz=True)] | None]], Meta(description="Of each view.")] | UnsetType
    ) = UNSET
    types: dict[str, str] | UnsetType = UNSET


class CompiledRequest:
    """What a request asks for, as far as HTTP is concerned: compiled once, and kept while the catalog stays the same.

    Args:
        selection: what is asked for.
        plan: the same, compiled: what the rows are made of and what they are read by are of one catalog.
        names: as the request names it.

    Attributes:
        personal: whether personal information is among what is read.
        entities: what the rows are read by.
    """

    __slots__ = ("converters", "entities", "floats", "names", "needed", "personal", "plan", "said", "types")

    def __init__(self, selection: Selection, plan: "OnlinePlan", names: tuple[str, ...]) -> None:
        self.names = names
        self.plan = plan
        self.said = ",".join(names)
        self.personal = selection.is_personal
        self.entities: Entities = tuple(
            dict.fromkeys((join.applied.spec.entity.name, tuple(zip(join.keys, join.on, strict=True))) for join in selection.joins)
        )
        columns = {on: dtype for join in selection.joins for on, dtype in zip(join.on, join.keys.values(), strict=True)}
        fields = {column.field.name: column.field.dtype for column in selection.computation.fields}
        required = (column.field.name for column in selection.computation.fields if column.field.required)
        self.needed = tuple(dict.fromkeys((*columns, *required)))
        texts = {name: from_json(dtype) for name, dtype in {**fields, **columns}.items()}
        self.converters = {name: convert for name, convert in texts.items() if convert is not None}
        self.floats = tuple(name for name, dtype in selection.schema.items() if _has_floats(dtype))
        self.types = {name: dtype_name(dtype) for name, dtype in selection.schema.items()}

    def convert(self, rows: list[dict[str, Any]]) -> None:
        """Make of texts in rows what JSON cannot say: dates, times, bytes, decimals.

        Raises:
            RequestError: a text says something else; tells the row and the column.
        """
        for column, convert in self.converters.items():
            for number, row in enumerate(rows):
                value = row.get(column)
                if type(value) is str or type(value) is list:
                    try:
                        row[column] = convert(value)
                    except (ValueError, RequestError, InvalidOperation, binascii.Error, msgspec.ValidationError) as error:
                        shown = value if len(str(value)) < 100 else f"{str(value)[:100]}…"
                        raise RequestError(
                            f"Row {number}: the column {column!r} is {shown!r}. {error}", row=number, column=column
                        ) from error


class OnlineEndpoint:
    """Answer look-ups as an ASGI application.

    It does what Starlette's ``Request``, ``Response`` and ``AuthenticationMiddleware`` do for the other routes, for a body that
    comes in one message, as nearly all look-ups do. ``python -m benchmarks serving`` measures it against an empty route.

    Args:
        of_service: whether the path names the service, and the body has no features.
    """

    def __init__(self, *, of_service: bool = False) -> None:
        self._of_service = of_service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a look-up."""
        context, state = scope[KEY], scope["app"].state.server
        await context.authenticate()
        service = scope["path_params"]["name"] if self._of_service else None
        content, media = await state.part(_LookUps).answer(context, receive, service)
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class OnlineFastPath:
    """Middleware that answers ``POST /v1/online`` before Starlette's routing and exception middleware.

    Those would add an eighth to the processor time of a look-up of one row from LMDB. The route is the same, with its
    time limit, and errors are answered as elsewhere; what else comes goes on to Starlette.

    Args:
        app: what answers all else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a look-up, or hand a request on."""
        if scope["type"] != "http" or scope["path"] != _ONLINE.path or scope["method"] != _ONLINE.method:
            await self._app(scope, receive, send)
            return
        context: RequestContext = scope[KEY]
        context.enter(_ONLINE.path, _ONLINE.permission)
        try:
            await _ONLINE.app(scope, receive, send)
        except (FeatureStoreError, Problem) as error:
            if context.status:  # half of an answer is sent: all that is left is to break off
                raise RuntimeError("The answer to a look-up cannot be finished.") from error
            response = await answer_error(Request(scope, receive), error)
            await response(scope, receive, send)


class _LookUps:
    """Answer look-ups.

    Args:
        state: the store, the server's limits, and the observer of every look-up.
    """

    def __init__(self, state: AppState) -> None:
        self._backend = state.backend
        self._limits = state.limits
        self._observer = state.observer
        self._reads = state.pools.reads
        self._codec: Codec[OnlineRequest] = Codec(OnlineRequest)
        self._service_codec: Codec[ServiceRequest] = Codec(ServiceRequest)
        self._catalog: Catalog | None = None
        self._compiled_requests: dict[str | tuple[str, ...], CompiledRequest] = {}

    async def answer(self, context: RequestContext, receive: Receive, service: str | None) -> tuple[bytes, bytes]:
        """Return the answer to a request, and its type; of the service, or of the features that its body names.

        Raises:
            NotFoundError: there is no such service.
        """
        if service is not None:
            context.check("features", (service,))
            if service not in self._backend.catalog.services:
                raise NotFoundError("applied feature service", service, self._backend.catalog.services)
        check_encoding(_text(context.header(b"content-encoding")))
        given = media_type(_text(context.header(b"content-type")), _TAKEN)
        check_length(context, self._limits.body)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        first: bytes = message.get("body", b"")
        body = check_size(first, self._limits.body) if context.uploaded else await self._rest(context, receive, first)
        del message, first
        large = len(body) > LARGE
        decode = partial(self._decoded, body, given) if service is None else partial(self._decoded_of_service, body, given, service)
        features, question = await self._reads.run(decode) if large else decode()
        most = brackets(body, given)
        del body, decode
        if service is None:
            context.check("features", (features,) if type(features) is str else tuple(features))
        asked = self._compiled(features)
        rows = question.rows
        if large:
            context.rows, rows = await self._reads.run(partial(self._converted, asked, rows, most))
        else:
            context.rows, rows = self._converted(asked, rows, most)
        context.personal, context.entities, context.entity_rows = asked.personal, asked.entities, rows
        many = self._many(context.rows, len(asked.types))
        online_rows = await self._backend.look_up(asked.plan, rows, question.at)
        wanted = answer_type(_text(context.header(b"accept")), given)
        answer = partial(_answer, asked, question, online_rows, wanted)
        content = await self._reads.run(answer) if many else answer()
        context.after = partial(self._observer.online, asked.said, online_rows)
        return content, b"application/json" if wanted is JSON else b"application/msgpack"

    async def _rest(self, context: RequestContext, receive: Receive, first: bytes) -> bytearray:
        """Return a body that comes in several messages; more is read than came with the head only for those who may ask at all."""
        context.check_any("features")
        async with aclosing(Request(context.scope, receive).stream()) as chunks:
            return await gather(context, first, chunks, self._limits.body)

    def _decoded_of_service(self, body: bytes | bytearray, given: str, service: str) -> tuple[str, ServiceRequest]:
        return service, self._service_codec.decode(body, given, self._limits.values)

    def _decoded(self, body: bytes | bytearray, given: str) -> tuple[str | list[str], ServiceRequest]:
        question = self._codec.decode(body, given, self._limits.values)
        if type(question.features) is list and len(question.features) > self._limits.columns:
            raise RequestError(
                f"{len(question.features):,} features are asked for, and {self._limits.columns} are allowed (server.max_columns)."
            )
        return question.features, question

    def _converted(self, asked: CompiledRequest, rows: Any, most: int | None) -> tuple[int, Any]:
        """Return how many rows there are, and the rows as the store takes them."""
        count = check_shape(rows, self._limits, most)
        if not count and isinstance(rows, dict):
            for name in asked.needed:
                if name not in rows:  # of rows that are there the store says so
                    raise RequestError(f"The rows have no column {name!r}. Give it, if only as an empty list.", column=name)
        if asked.converters:
            rows = as_dicts(rows)
            asked.convert(rows)
        return count, rows

    def _many(self, rows: int, features: int) -> bool:
        """Return whether an answer has so many values that making it would keep other requests waiting.

        Raises:
            LimitError: it has more than are allowed.
        """
        if rows * features > self._limits.values:
            raise LimitError(
                f"{rows:,} rows of {features:,} features are {rows * features:,} values, and {self._limits.values:,} are allowed "
                "(server.max_values). Ask for them in parts.",
                "rows",
            )
        return rows * features > _MANY

    def _compiled(self, features: str | list[str]) -> CompiledRequest:
        catalog = self._backend.catalog
        if catalog is not self._catalog:
            self._catalog, self._compiled_requests = catalog, {}
        name = features if type(features) is str else tuple(features)
        asked = self._compiled_requests.get(name)
        if asked is None:
            names = (name,) if isinstance(name, str) else name
            selection = select(catalog, parse_references(list(names)))
            asked = CompiledRequest(selection, self._backend.compile(selection), names)
            if len(self._compiled_requests) < _MOST_KEPT:
                self._compiled_requests[name] = asked
        return asked


def _answer(asked: CompiledRequest, question: ServiceRequest, online_rows: "OnlineRows", wanted: str) -> bytes:
    """Return the body of an answer."""
    columns: dict[str, Any] = online_rows.columns()
    # One look at all of them: hardly ever is one of them not finite.
    if wanted is JSON and not _all_finite(chain.from_iterable([columns[name] for name in asked.floats])):
        for name in asked.floats:
            columns[name] = sayable(columns[name])
    answer: dict[str, Any] = {"features": columns}
    if question.metadata:
        answer["status"] = online_rows.status
        answer["event_time"] = online_rows.event_time
    if question.types:
        answer["types"] = asked.types
    return ENCODE[wanted](answer)


def as_dicts(rows: Mapping[str, Sequence[Any]] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows as dictionaries.

    Raises:
        RequestError: columns differ in length.
    """
    if isinstance(rows, list):
        return rows
    if len(set(map(len, rows.values()))) > 1:
        lengths = ", ".join(f"{name!r} has {len(column)}" for name, column in rows.items())
        raise RequestError(f"The rows' columns must be equally long: {lengths}.")
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def _has_floats(dtype: pl.DataType) -> bool:
    return _has_floats(inner_dtype(dtype)) if isinstance(dtype, (pl.List, pl.Array)) else dtype.is_float()


def _all_finite(values: Iterable[Any]) -> bool:
    """Return whether all values are finite numbers or None; False where that takes a closer look."""
    try:
        return math.isfinite(sum([value for value in values if value is not None]))
    except TypeError:  # a list is among them
        return False


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")


_ONLINE = ApiRoute(
    "/v1/online",
    Endpoint(OnlineEndpoint(), Permission("read", "features"), is_asgi=True),
    method="POST",
    operation=Operation(
        id="lookUp",
        summary="Look features up",
        tag="features",
        bodies={JSON: OnlineRequest, MSGPACK: OnlineRequest},
        answers={JSON: OnlineResponse, MSGPACK: OnlineResponse},
        description="A list for each feature, a value a row.",
    ),
)
routes = [
    _ONLINE,
    ApiRoute(
        "/v1/services/{name}/online",
        Endpoint(OnlineEndpoint(of_service=True), Permission("read", "features"), is_asgi=True),
        method="POST",
        operation=Operation(
            id="lookUp",
            summary="Look features of a service up",
            tag="features",
            bodies={JSON: ServiceRequest, MSGPACK: ServiceRequest},
            answers={JSON: OnlineResponse, MSGPACK: OnlineResponse},
            description="A list for each feature, a value a row.",
            of_each_service=True,
        ),
    ),
]
