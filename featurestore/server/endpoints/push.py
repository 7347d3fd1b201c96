"""The push endpoint, ``POST /v1/push/{source}``."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from featurestore.errors import LimitError, NotFoundError, RequestError
from featurestore.rows.python_values import rows_of
from featurestore.rows.transform import stack_rejects
from featurestore.server.decoding.decoder import Bounds
from featurestore.server.http.bodies import query_of, read_body
from featurestore.server.http.content_types import (
    ARROW,
    ENCODE,
    FLOATS,
    JSON,
    MSGPACK,
    PARQUET,
    Codec,
    Name,
    Rows,
    answer_type,
    body_type,
    brackets,
    check_shape,
    sayable,
)
from featurestore.server.http.context import context_of
from featurestore.server.http.routing import ApiRoute, requires
from featurestore.server.http.state import AppState, state_of
from featurestore.server.http.streaming import while_connected
from featurestore.server.limits import check_rows
from featurestore.server.openapi.operation import Operation
from featurestore.server.security.guard import Principal

if TYPE_CHECKING:
    from featurestore.materialization.results import PushedView, PushSummary

_TAKEN = (JSON, MSGPACK, ARROW, PARQUET)
_MOST_SHOWN = 100


OfReaders = Annotated[int | None, Meta(description="Null to a caller who may push to the view and not read it.")]


class PushRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Rows of a source."""

    rows: Annotated[Rows, Meta(description="The rows as the source has them: objects, or columns of one length.")]
    views: Annotated[list[Name] | None, Meta(description="The views to push to; all on the source where it is left out.")] = None


class PushQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of a push."""

    views: Annotated[
        list[str], Meta(description="The views to push to, separated by commas; all on the source where it is left out.")
    ] = msgspec.field(default_factory=list)


class PushCounts(msgspec.Struct):
    """What became of the rows in one view."""

    view: str
    data_version: int
    rows_read: int
    rows_new: OfReaders
    rows_known: OfReaders
    rows_rejected: int
    rows_waiting: int
    rows_online: OfReaders
    seconds: float
    reasons: Annotated[dict[str, int], Meta(description="How many rows were rejected for what.")]
    rejected: Annotated[list[dict[str, Any]], Meta(description="The first of the rejected rows, each with its _reason.")]


class PushResponse(msgspec.Struct):
    """What became of the rows, view by view."""

    views: list[PushCounts]


@requires("write", "source")
async def push(request: Request) -> Response:
    """Push rows of a source, in a thread: it goes on there if the client goes away, and is dropped if it has not begun."""
    context, state = context_of(request), state_of(request)
    pushes, given = state.part(_Pushes), body_type(request, _TAKEN)
    state.pools.pushes.check()
    body = await read_body(request, state.limits.body)
    summary = await while_connected(request, state.pools.pushes.run(partial(pushes.push, request, body, given)))
    context.after = partial(state.observer.push, summary)
    wanted = answer_type(request.headers.get("accept"), given)
    views = [_counts(pushed, wanted, reads=context.may("read", "features", (pushed.view,))) for pushed in summary]
    return Response(ENCODE[wanted](PushResponse(views)), media_type=wanted)


class _Pushes:
    """Decode pushed rows, and give them to the store.

    Args:
        state: the store, the server's limits, and what callers may see.
    """

    def __init__(self, state: AppState) -> None:
        self._backend = state.backend
        self._limits = state.limits
        self._visibility = state.visibility
        self._decoders = state.decoders
        self._codec = Codec(PushRequest)

    def push(self, request: Request, body: bytes | bytearray, given: str) -> "PushSummary":
        """Push a body's rows. It blocks."""
        context, query = context_of(request), query_of(request)
        views = query["views"].split(",") if "views" in query else None
        rows: Any
        if given in (JSON, MSGPACK):
            said = self._codec.decode(body, given, self._limits.values)
            rows, views = said.rows, said.views or views
            self._check_views(context.authenticated, views or ())
            context.rows = check_shape(rows, self._limits, brackets(body, given))
            _check_names(rows, self._limits.columns)
            if given == JSON:
                rows = with_floats(rows)
        else:
            self._check_views(context.authenticated, views or ())
            bounds = Bounds(self._limits.rows, self._limits.decoded, self._limits.columns)
            try:
                rows = self._decoders.frame(body, given, bounds, context.sender)
            except LimitError as error:
                if error.limit != "rows":
                    raise
                check_rows(bounds.rows + 1, bounds.rows, counted=False)
                raise
            context.rows = rows.height
        return self._backend.push(request.path_params["source"], rows, views=views)

    def _check_views(self, principal: Principal, views: Sequence[str]) -> None:
        """Treat a view that the caller may not see like one that does not exist.

        Raises:
            NotFoundError: it is so; suggests those on the source that they may look at.
        """
        catalog, visible = self._visibility.of(principal)
        there = [name for name in visible.views if name in catalog.views]
        for name in views:
            if name.partition(".")[0] not in there:
                raise NotFoundError("applied feature view", name, there, "Definitions take effect once they are applied.")


def _check_names(rows: Any, most: int) -> None:
    """Refuse rows that have very many columns among them, however few each has.

    Raises:
        RequestError: there are more than are allowed.
    """
    names: set[str] = set()
    for row in rows if isinstance(rows, list) else ():
        names.update(row)
        if len(names) > most:
            raise RequestError(f"The rows have more than {most} columns among them, which are allowed (server.max_columns).")


def with_floats(rows: dict[str, list[Any]] | list[dict[str, Any]]) -> dict[str, list[Any]] | list[dict[str, Any]]:
    """Return rows with the floats that JSON lacks, where text stands for them beside numbers.

    Example:
        >>> with_floats({"temp": [1, "-Infinity", None], "word": ["NaN", "b", "c"]})
        {'temp': [1, -inf, None], 'word': ['NaN', 'b', 'c']}
    """
    if isinstance(rows, dict):
        return {name: _floats(column) for name, column in rows.items()}
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _floats([row.get(name) for row in rows]) for name in names}
    return [{name: columns[name][number] for name in row} for number, row in enumerate(rows)]


def _floats(column: list[Any]) -> list[Any]:
    kinds = {type(value) for value in column}
    if list in kinds:
        return [_floats(value) if type(value) is list else value for value in column]
    if str in kinds and kinds & {int, float}:
        return [FLOATS.get(value, value) if type(value) is str else value for value in column]
    return column


def _counts(pushed: "PushedView", wanted: str, *, reads: bool) -> PushCounts:
    """Return what became of a view's rows; a caller who may not read the view does not learn how many were there before."""
    return PushCounts(
        view=pushed.view,
        data_version=pushed.data_version,
        rows_read=pushed.rows_read,
        rows_new=pushed.rows_new if reads else None,
        rows_known=pushed.rows_known if reads else None,
        rows_rejected=pushed.rows_rejected,
        rows_waiting=pushed.rows_waiting,
        rows_online=pushed.rows_online if reads else None,
        seconds=pushed.seconds,
        reasons=dict(pushed.reasons),
        rejected=_rejected(pushed, wanted),
    )


def _rejected(pushed: "PushedView", wanted: str) -> list[dict[str, Any]]:
    """Return the first of the rejected rows, each with its ``_reason``."""
    if not pushed.rejected:
        return []
    rows = rows_of(stack_rejects(pushed.rejected).head(_MOST_SHOWN))
    if wanted == MSGPACK:
        return rows
    return [dict(zip(row, sayable(row.values()), strict=True)) for row in rows]


routes = [
    ApiRoute(
        "/v1/push/{source}",
        push,
        method="POST",
        operation=Operation(
            id="pushRows",
            summary="Push rows of a source into both stores",
            tag="features",
            bodies={JSON: PushRequest, MSGPACK: PushRequest, ARROW: bytes, PARQUET: bytes},
            answers={JSON: PushResponse, MSGPACK: PushResponse},
            description="What became of the rows, view by view.",
            query=PushQuery,
            names={"source": lambda visible: visible.pushed},
        ),
    )
]
