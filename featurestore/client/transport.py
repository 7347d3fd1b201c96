"""HTTP transport of the client: pooled connections, retries with back-off, and problem documents as errors."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from featurestore import errors
from featurestore.errors import FeatureStoreError, MissingExtraError, ServerError, UnavailableError

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("A client of a feature server", "client") from error

T = TypeVar("T")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_MSGPACK = "application/msgpack"
_BY_KIND: dict[str, type[FeatureStoreError]] = {
    "body": errors.LimitError,
    "rows": errors.LimitError,
    "time": errors.LimitError,
    "malformed": errors.RequestError,
    "media-type": errors.RequestError,
    "request": errors.RequestError,
    "unavailable": errors.UnavailableError,
}
"""The error of each kind of problem that names none."""


class Transport:
    """Send requests to one server, over connections that are kept.

    A request that finds no server, that loses its answer half-way, or that is answered 503, is sent again after a pause: as
    long as the server says, else twice as long each time, less a random part. All of them may be sent twice: look-ups and
    training frames change nothing, and a row that is pushed twice is one row.

    Args:
        url: the server's address; ``unix:/path`` for a Unix socket.
        token: a key or token to send with each request.
        timeout: the seconds to wait for an answer.
        retries: how often a request is sent again.
        verify: whether and by what the server's certificate is checked, as httpx takes it.
    """

    def __init__(self, url: str, token: str | None, timeout: float, retries: int, verify: Any) -> None:
        self._url = url
        self._uds = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._options: dict[str, Any] = {
            "base_url": "http://localhost" if self._uds else url.rstrip("/"),
            "headers": {"authorization": f"Bearer {token}"} if token else {},
            "timeout": timeout,
        }
        self._verify = verify
        self._retries = retries
        self._client: Any = None
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[Any, None]]] = WeakKeyDictionary()

    def post(self, path: str, content: Callable[[], Any], media: str, **options: Any) -> bytes:
        """Return the answer to a POST.

        Args:
            path: the route.
            content: returns a fresh body for each attempt.
            media: its type.
            options: the query (``params=``), a timeout of its own, and the bytes of a body in parts, if known (``size=``).

        Raises:
            FeatureStoreError: the error that the server's problem stands for.
            UnavailableError: the server cannot be reached, or has too much to do.
        """
        return self.read(path, content, media, lambda parts, _: b"".join(parts), **options)

    def read(
        self, path: str, content: Callable[[], Any], media: str, use: Callable[[Iterator[bytes], int | None], T], **options: Any
    ) -> T:
        """Pass the parts of an answer to a POST to ``use`` as they arrive and return its result; if they stop, start over.

        Args:
            path: the route.
            content: returns a fresh body for each attempt.
            media: its type.
            use: is given the parts, and how many bytes they are in all if that is known.
            options: as ``post`` takes them.

        Raises:
            FeatureStoreError: as ``post`` does.
        """
        client = self._sync()
        headers = _headers(media, options.pop("size", None))
        for pause in self._pauses():
            try:
                request = client.build_request("POST", path, content=content(), headers=headers, **options)
                with closing(client.send(request, stream=True)) as answer:
                    if answer.status_code < 400:
                        return use(answer.iter_bytes(), _size(answer.headers))
                    failed = error_of(answer.status_code, answer.read(), answer.headers)
            except httpx.TransportError as error:
                failed = self._lost(error)
            time.sleep(pause(failed))
        raise AssertionError("the last pause raises")

    async def post_async(self, path: str, content: Callable[[], Any], media: str) -> bytes:
        """Return the answer to a POST like ``post``, without blocking the event loop."""
        client = await self._async()
        for pause in self._pauses():
            try:
                answer = await client.post(path, content=content(), headers=_headers(media))
            except httpx.TransportError as error:
                await asyncio.sleep(pause(self._lost(error)))
                continue
            if answer.status_code < 400:
                body: bytes = answer.content
                return body
            await asyncio.sleep(pause(error_of(answer.status_code, answer.content, answer.headers)))
        raise AssertionError("the last pause raises")

    def close(self) -> None:
        """Close the connections; those of event loops close with their loops."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _pauses(self) -> Iterator[Callable[[FeatureStoreError], float]]:
        """Yield for each try what says how long to wait after it failed, or raise what it failed with."""
        for number in range(self._retries + 1):

            def pause(error: FeatureStoreError, number: int = number) -> float:
                if number == self._retries or not _passes(error):
                    raise error
                longest = min(_FIRST_PAUSE * 2**number, _LONGEST_PAUSE)
                least = getattr(error, "retry_after", None) or 0.0
                return float(least + longest * random.random())

            yield pause

    def _lost(self, error: Exception) -> FeatureStoreError:
        if isinstance(error, httpx.ReadTimeout):
            return errors.LimitError(f"The server at {self._url} did not answer in time. Ask for less, or raise timeout=.", "time")
        reason = str(error) or type(error).__name__
        return UnavailableError(f"The server at {self._url} cannot be reached: {reason}. Is it running, and is the address right?")

    def _sync(self) -> Any:
        if self._client is None:
            transport = httpx.HTTPTransport(uds=self._uds, verify=self._verify)
            self._client = httpx.Client(transport=transport, **self._options)
        return self._client

    async def _async(self) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            keeper = self._keep()
            self._clients[loop] = (await anext(keeper), keeper)
        return self._clients[loop][0]

    async def _keep(self) -> AsyncGenerator[Any, None]:
        """Hold an event loop's client, and close it as the loop ends (``loop.shutdown_asyncgens``)."""
        transport = httpx.AsyncHTTPTransport(uds=self._uds, verify=self._verify)
        async with httpx.AsyncClient(transport=transport, **self._options) as client:
            yield client


def error_of(status: int, body: bytes, headers: Any) -> FeatureStoreError:
    """Return the error that an answer stands for: the same that the store raised on the server.

    Args:
        status: the answer's status.
        body: its body, a problem if it is the server's own.
        headers: its headers.
    """
    try:
        problem = msgspec.json.decode(body)
        kind, detail = str(problem["type"]).rpartition(":")[2], str(problem["detail"])
    except (msgspec.DecodeError, TypeError, KeyError):
        shown = body[:200].decode(errors="replace")
        failure: FeatureStoreError = UnavailableError(f"The server answered {status}: {shown}") if status in (502, 503, 504) else (
            ServerError(f"The server answered {status}, and no problem of a feature store: {shown}")
        )  # fmt: skip
        return failure
    error_class = getattr(errors, str(problem.get("error", "")), None)
    if not (isinstance(error_class, type) and issubclass(error_class, FeatureStoreError)):
        error_class = _BY_KIND.get(kind, ServerError)
    error = error_class.from_wire(detail, problem)
    after = headers.get("retry-after")
    error.retry_after = float(after) if status == 503 and after and after.isdigit() else None  # type: ignore[attr-defined]  # of the answer
    error.status = status  # type: ignore[attr-defined]  # of the answer
    return error


def _passes(error: FeatureStoreError) -> bool:
    """Return whether a later try may have another answer."""
    return not isinstance(error, errors.LimitError) and (isinstance(error, UnavailableError) or getattr(error, "status", 0) == 503)


def _headers(media: str, size: int | None = None) -> dict[str, str]:
    accept = f"{_MSGPACK}, application/vnd.apache.arrow.stream"
    length = {} if size is None else {"content-length": str(size)}
    return {"content-type": media, "accept": accept, "accept-encoding": "identity", **length}


def _size(headers: Any) -> int | None:
    """Return the size of an answer's body in bytes; None if the header is missing or gives the compressed size."""
    length = headers.get("content-length")
    return int(length) if length is not None and "content-encoding" not in headers else None
