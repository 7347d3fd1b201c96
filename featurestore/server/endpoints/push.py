"""The push endpoint, ``POST /v1/push/{source}``."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.errors import LimitError, NotFoundError, RequestError
from featurestore.rows.python_values import rows_of
from featurestore.rows.transform import stack_rejects
from featurestore.server.decoding.decoder import Bounds
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
    brackets,
    check_shape,
    media_type,
    sayable,
)
from featurestore.server.http.context import RequestContext
from featurestore.server.http.routing import AppState
from featurestore.server.limits import check_rows
from featurestore.server.security.guard import Resource

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


class PushEndpoint:
    """Takes pushed rows.

    Args:
        parts: the store, the server's limits, the threads to push in, and the observer of every push.
    """

    def __init__(self, parts: AppState) -> None:
        self._backend = parts.backend
        self._limits = parts.limits
        self._observer = parts.observer
        self._pool = parts.pools.pushes
        self._sights = parts.sights
        self._project = parts.backend.settings.project
        self._decoders = parts.decoders
        self._codec = Codec(Pushed)

    async def __call__(self, visit: RequestContext) -> None:
        """Answers one. It runs in a thread, and goes on there if the client goes away; if it has not begun, it is dropped."""
        given = media_type(visit.header(b"content-type"), _TAKEN)
        self._pool.check()
        body = await visit.body(self._limits.body)
        summary = await visit.while_there(self._pool.run(partial(self._push, visit, body, given)))
        visit.after = partial(self._observer.push, summary)
        wanted = answer_type(visit.header(b"accept"), given)
        told = {"views": [_told(each, wanted, counts=self._reads(visit, each.view)) for each in summary]}
        await visit.answer(ENCODE[wanted](told), wanted.encode())

    def _push(self, visit: RequestContext, body: bytes | bytearray, given: str) -> "PushSummary":
        query = visit.query()
        views = query["views"].split(",") if "views" in query else None
        rows: Any
        if given in (JSON, MSGPACK):
            said = self._codec.decode(body, given, self._limits.values)
            rows, views = said.rows, said.views or views
            self._check_views(visit, views or ())
            visit.rows = check_shape(rows, self._limits, brackets(body, given))
            _check_names(rows, self._limits.columns)
            if given == JSON:
                rows = with_floats(rows)
        else:
            self._check_views(visit, views or ())
            bounds = Bounds(self._limits.rows, self._limits.decoded, self._limits.columns)
            try:
                rows = self._decoders.frame(body, given, bounds, visit.sender)
            except LimitError as error:
                if error.limit != "rows":
                    raise
                check_rows(bounds.rows + 1, bounds.rows, counted=False)
                raise
            visit.rows = rows.height
        return self._backend.push(visit.scope["path_params"]["source"], rows, views=views)

    def _check_views(self, visit: RequestContext, views: Sequence[str]) -> None:
        """Treat a view that the caller may not see like one that does not exist.

        Raises:
            NotFoundError: it is so; suggests those on the source that they may look at.
        """
        catalog, sight = self._sights.of(visit)
        there = [name for name in sight.views if name in catalog.views]
        for name in views:
            if name.partition(".")[0] not in there:
                raise NotFoundError("applied feature view", name, there, "Definitions take effect once they are applied.")

    def _reads(self, visit: RequestContext, view: str) -> bool:
        return visit.may("read", Resource("features", (view,), self._project))


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
