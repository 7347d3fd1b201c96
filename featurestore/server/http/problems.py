"""Problem documents, ``application/problem+json`` (RFC 9457): one table maps errors to statuses."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from featurestore.errors import (
    BreakingChangeError,
    ConcurrentApplyError,
    ConfigError,
    DefinitionError,
    EngineError,
    FeatureStoreError,
    Forbidden,
    LimitError,
    NameClashError,
    NotFoundError,
    RegistryError,
    RejectedRowsError,
    RequestError,
    SourceError,
    StoreError,
    Unauthenticated,
    UnavailableError,
)

MEDIA_TYPE = b"application/problem+json"
RETRY_AFTER = 1
"""After how many seconds a client may try again where nothing better is known."""

KINDS: dict[str, str] = {
    "not-found": "Nothing has that name",
    "name-clash": "Two columns have one name",
    "request": "The request is wrong",
    "malformed": "The body cannot be read",
    "media-type": "The body is of a type that is not taken here",
    "no-route": "There is nothing at this address",
    "method": "The method is not allowed here",
    "body": "The body is too large",
    "rows": "There are too many rows",
    "head": "The request's head is too large",
    "time": "The request takes too long",
    "decoder": "Too many bodies of this sender could not be decoded",
    "unauthenticated": "It is not known who asks",
    "forbidden": "The caller may not do this",
    "rejected": "Rows were rejected",
    "definition": "The definitions do not go with what is applied",
    "unavailable": "A store cannot be reached, or the server has too much to do",
    "internal": "The server failed",
}
"""The kinds of problems, each with its title; a problem's ``type`` is ``urn:featurestore:problem:`` and the kind."""


class ProblemDetails(msgspec.Struct):
    """A problem of RFC 9457."""

    type: Annotated[str, Meta(extra_json_schema={"enum": [f"urn:featurestore:problem:{kind}" for kind in KINDS]})]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What was found, and what to do.")]
    error: Annotated[str, Meta(description="The class of the error in featurestore.errors.")] | UnsetType = UNSET
    suggestion: Annotated[str, Meta(description="What was perhaps meant.")] | UnsetType = UNSET
    row: Annotated[int, Meta(description="The number of the row, from 0.")] | UnsetType = UNSET
    column: str | UnsetType = UNSET


_ERRORS: tuple[tuple[type[FeatureStoreError], int, str], ...] = (
    (NotFoundError, 404, "not-found"),
    (NameClashError, 422, "name-clash"),
    (RequestError, 422, "request"),
    (Unauthenticated, 401, "unauthenticated"),
    (Forbidden, 403, "forbidden"),
    (UnavailableError, 503, "unavailable"),
    (RejectedRowsError, 422, "rejected"),
    (DefinitionError, 409, "definition"),
    (ConcurrentApplyError, 409, "definition"),
    (BreakingChangeError, 409, "definition"),
    (RegistryError, 503, "unavailable"),
    (StoreError, 503, "unavailable"),
    (EngineError, 503, "unavailable"),
    (SourceError, 503, "unavailable"),
    (ConfigError, 500, "internal"),
    (FeatureStoreError, 500, "internal"),
)
"""What each error is, the first that fits; a limit's is by the limit."""

_LIMITS = {"body": 413, "decoded": 413, "rows": 422, "upload": 408, "time": 503, "decoder": 429}
_KINDS_OF_LIMITS = {"upload": "time", "decoded": "body", "": "time"}
_DECODER_AGAIN = 60.0
_LONGEST = 2_000
_HEADERS = frozenset({"retry_after"})
"""The fields of an error that are sent in a header."""


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """An answer that says what is wrong and what to do.

    Args:
        status: the HTTP status.
        kind: one of ``KINDS``.
        detail: what was found, and what to do.
        headers: further headers of the answer.
        more: further members: the error's class, the row, the column, what was meant.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None, /, **more: Any) -> None:
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more
        super().__init__(detail)

    def encoded(self) -> bytes:
        """Return the answer's body."""
        members = {"type": f"urn:featurestore:problem:{self.kind}", "title": KINDS[self.kind], "status": self.status}
        more = {name: member for name, member in self.more.items() if member != ""}
        return msgspec.json.encode(members | {name: _clipped(member) for name, member in {"detail": self.detail, **more}.items()})


def _clipped(value: Any) -> Any:
    """Return a text that is not endless: a name in a request may be."""
    return value if not isinstance(value, str) or len(value) <= _LONGEST else f"{value[:_LONGEST]} …"


def problem_of(error: FeatureStoreError) -> Problem:
    """Return an error as a problem.

    Example:
        >>> made = problem_of(NotFoundError("feature view", "wether", ["weather"]))
        >>> made.status, made.more
        (404, {'error': 'NotFoundError', 'kind': 'feature view', 'name': 'wether', 'suggestion': "Did you mean 'weather'?"})
        >>> problem_of(RequestError("Row 3: the key 'origin' is 1, of type int.", row=3, column="origin")).more
        {'error': 'RequestError', 'row': 3, 'column': 'origin'}
    """
    if isinstance(error, LimitError):
        status = _LIMITS.get(error.limit, 503)
        kind = _KINDS_OF_LIMITS.get(error.limit, error.limit)
        after = {503: _retry(RETRY_AFTER), 429: _retry(_DECODER_AGAIN)}.get(status)
        return Problem(status, kind, str(error), after, error="LimitError", limit=error.limit)
    status, kind = next((status, kind) for known, status, kind in _ERRORS if isinstance(error, known))
    headers: dict[str, str] = {}
    if status == 503:
        headers = _retry(getattr(error, "retry_after", None) or RETRY_AFTER)
    elif status == 401:
        headers = {"www-authenticate": "Bearer"}
    return Problem(status, kind, str(error), headers, error=type(error).__name__, **_details(error))


def _retry(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, round(seconds)))}


def _details(error: FeatureStoreError) -> dict[str, Any]:
    """Return what an error carries, as far as it is known."""
    return {name: value for name, value in error.to_wire().items() if value is not None and name not in _HEADERS}
