"""The push endpoint, ``POST /v1/push/{source}``."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
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
from featurestore.server.security.guard import Principal

if TYPE_CHECKING:
    from featurestore.materialization.results import PushedView, PushSummary

_TAKEN = (JSON, MSGPACK, ARROW, PARQUET)
_MOST_SHOWN = 100


class Pushed(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a push.

    Args:
        rows: rows as the source has them: columns, or a list of objects.
        views: the views to push to; all views on the source where it is left out.
    """

    rows: Rows
    views: list[Name] | None = None


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
    views = [_told(each, wanted, counts=context.may("read", "features", (each.view,))) for each in summary]
    return Response(ENCODE[wanted]({"views": views}), media_type=wanted)


class _Pushes:
    """Decodes pushed rows, and gives them to the store.

    Args:
        state: the store, the server's limits, and what callers may see.
    """

    def __init__(self, state: AppState) -> None:
        self._backend = state.backend
        self._limits = state.limits
        self._visibility = state.visibility
        self._decoders = state.decoders
        self._codec = Codec(Pushed)

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
    """Refuses rows that have very many columns among them, however few each has.

    Raises:
        RequestError: there are more than are allowed.
    """
    names: set[str] = set()
    for row in rows if isinstance(rows, list) else ():
        names.update(row)
        if len(names) > most:
            raise RequestError(f"The rows have more than {most} columns among them, which are allowed (server.max_columns).")


def with_floats(rows: dict[str, list[Any]] | list[dict[str, Any]]) -> dict[str, list[Any]] | list[dict[str, Any]]:
    """Returns rows with the floats that JSON lacks, where text stands for them beside numbers.

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


_OF_READERS = ("rows_new", "rows_known", "rows_online")
"""What tells whether a row was there already, and so whether a value that was guessed is right."""


def _told(pushed: "PushedView", wanted: str, *, counts: bool) -> dict[str, Any]:
    """Returns what became of a view's rows; to whom does not read the view, not how many of them were there."""
    return _counted(pushed, wanted) | ({} if counts else dict.fromkeys(_OF_READERS))


def _counted(pushed: "PushedView", wanted: str) -> dict[str, Any]:
    counts = {
        name: getattr(pushed, name)
        for name in (
            "view",
            "data_version",
            "rows_read",
            "rows_new",
            "rows_known",
            "rows_rejected",
            "rows_waiting",
            "rows_online",
            "seconds",
        )
    }
    return counts | {"reasons": dict(pushed.reasons), "rejected": _rejected(pushed, wanted)}


def _rejected(pushed: "PushedView", wanted: str) -> list[dict[str, Any]]:
    """Returns the first of the rejected rows, each with its ``_reason``."""
    if not pushed.rejected:
        return []
    rows = rows_of(stack_rejects(pushed.rejected).head(_MOST_SHOWN))
    if wanted == MSGPACK:
        return rows
    return [dict(zip(row, sayable(row.values()), strict=True)) for row in rows]


routes = [ApiRoute("/v1/push/{source}", push, method="POST", summary="Push rows of a source into both stores")]
