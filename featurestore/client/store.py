"""The remote feature store: the client that services and notebooks use to query a server."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from featurestore.client.results import PushedRows, RemoteRows
from featurestore.client.transport import Transport
from featurestore.client.wire import encode, is_frame, load_frames, names_of, rows_of
from featurestore.errors import ServerError
from featurestore.given_paths import local_path

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")

_MSGPACK = "application/msgpack"


class RemoteFeatureStore:
    """A feature store behind a server: the same calls, answers and errors as on ``FeatureStore``.

    Connections are kept and shared by threads; ``close()`` it, or use it in a ``with`` block. A call that finds no server, or
    one that says it cannot answer now, is tried again after a growing pause. That is safe for all of them: a row that is
    pushed twice is one row (S17).

    Args:
        url: the server's address, ``http://localhost:8372``; ``unix:/path`` for a Unix socket.
        token: a key that ``featurestore keys`` made, or a token of the company's issuer.
        timeout: the seconds to wait for an answer.
        training_timeout: the same for a training frame.
        retries: how often a call is tried again.
        verify: False to accept any certificate, or an ``ssl.SSLContext``.

    Raises:
        MissingExtraError: httpx is not installed.

    Example:
        >>> store = RemoteFeatureStore("http://localhost:8372", token="fs_…", retries=0)
        >>> store.online("delay_model", [{"origin": "JFK", "carrier": "UA"}]).to_dicts()  # doctest: +SKIP
        [{'origin': 'JFK', 'carrier': 'UA', 'temp': 79.0}]
        >>> store.close()
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8372",
        *,
        token: str | None = None,
        timeout: float = 30.0,
        training_timeout: float = 3600.0,
        retries: int = 3,
        verify: Any = True,
    ) -> None:
        self.url = url
        self._training_timeout = training_timeout
        self._transport = Transport(url, token, timeout, retries, verify)

    def online(self, features: Any, rows: Any, *, at: datetime | str | None = None) -> RemoteRows:
        """Look features up: the values that a training frame would have for this instant (S14, S16).

        Args:
            features: a service, views and features, or a list of these, by name or by definition.
            rows: a list of dictionaries with the join keys and request fields, a mapping of columns, or a frame.
            at: read as of this instant instead of now.

        Returns:
            The rows given with the features after them; ``to_dicts()``, ``to_polars()``, ``status``, ``event_time``.

        Raises:
            NotFoundError: something asked for is not applied ("did you mean").
            NameClashError: a feature is named like a column of the rows (S13).
            RequestError: a row lacks a join key or a field, or has one of the wrong type.
            LimitError: there are more rows than the server takes at once.
            Unauthenticated: the server wants a token, or not this one.
            Forbidden: the token's owner may not read that.
            UnavailableError: the server cannot be reached; or a StoreError, as its store cannot.
        """
        given, body = _question(features, rows, at)
        return RemoteRows(given, _decoded(self._transport.post("/v1/online", lambda: body, _MSGPACK)))

    async def online_async(self, features: Any, rows: Any, *, at: datetime | str | None = None) -> RemoteRows:
        """Look features up like ``online``, without blocking the event loop."""
        given, body = _question(features, rows, at)
        return RemoteRows(given, _decoded(await self._transport.post_async("/v1/online", lambda: body, _MSGPACK)))

    @overload
    def training_frame(
        self,
        spine: Any,
        features: Any,
        *,
        time: str = ...,
        as_known: bool = ...,
        stored_by: datetime | None = ...,
        sink: None = ...,
    ) -> "pl.DataFrame": ...

    @overload
    def training_frame(
        self,
        spine: Any,
        features: Any,
        *,
        time: str = ...,
        as_known: bool = ...,
        stored_by: datetime | None = ...,
        sink: str | Path,
    ) -> "pl.LazyFrame": ...

    def training_frame(
        self,
        spine: Any,
        features: Any,
        *,
        time: str = "event_time",
        as_known: bool = True,
        stored_by: datetime | None = None,
        sink: str | Path | None = None,
    ) -> "pl.DataFrame | pl.LazyFrame":
        """Return a spine's rows with the features each of them could have seen at its time (S3-S6, S11-S13).

        Args:
            spine: the rows to train on: a Polars frame, pandas, Arrow, rows or columns, or the path of a Parquet file, which is
                sent as it is.
            features: a service, views and features, or a list of these, by name or by definition.
            time: the spine's time column; naive times are taken as UTC.
            as_known: whether a row counts only once it was available.
            stored_by: only rows count that the history held by this instant (S24); naive ones are UTC.
            sink: a Parquet file to write as the answer comes, instead of returning a frame.

        Returns:
            The spine's rows in their order, its columns unchanged, the features after them. With ``sink``, a lazy frame over the
            file.

        Raises:
            NotFoundError: something asked for is not applied ("did you mean").
            NameClashError: two columns would have one name (S13).
            RequestError: the spine lacks a column, or has one of the wrong type, or rows without a time.
            UnavailableError: the server cannot be reached, or makes as many frames as it may.
        """
        frames = load_frames()
        upload = frames.Upload(spine)
        names = names_of(features)
        asked = names if isinstance(names, str) else ",".join(names)
        query = {"features": asked, "time": time, "as_known": str(as_known).lower()}
        if stored_by is not None:
            query["stored_by"] = stored_by.isoformat()
        options: dict[str, Any] = {"params": query, "timeout": self._training_timeout, "size": upload.size}

        def ask(use: Callable[[Iterator[bytes], int | None], T]) -> T:
            return self._transport.read("/v1/training", upload.content, upload.media, use, **options)

        if sink is not None:
            path = local_path(sink, Path(), "sink")
            written: pl.LazyFrame = ask(lambda parts, _: frames.sink(parts, path))
            return written
        if upload.frame is not None:
            query["spine"] = "false"  # it is here already
        received: pl.DataFrame = ask(frames.received)
        return received if upload.frame is None else upload.frame.hstack(received)

    def push(self, source: Any, rows: Any, *, views: Iterable[Any] | None = None) -> list[PushedRows]:
        """Put rows of a source straight into both stores: when it returns, look-ups and training frames see them.

        Args:
            source: the source, or its name.
            rows: rows as the source has them: a frame, a list of dictionaries or a mapping of columns.
            views: the views to push to, by name or definition; None for all views on the source.

        Returns:
            What it did to each view.

        Raises:
            NotFoundError: the source or a view is not applied.
            RequestError: a column is missing, unknown or of another type; a view is not on the source.
            RejectedRowsError: rows were rejected in a view that says ``on_reject="fail"``; nothing was written.
            UnavailableError: the server cannot be reached; pushing the rows again completes it.
        """
        name = source if isinstance(source, str) else source.name
        names = None if views is None else [names_of(view) for view in views]
        query = {} if names is None else {"views": ",".join(map(str, names))}
        if is_frame(rows):
            frames = load_frames()
            body, media = frames.encoded(frames.as_frame(rows, "push")), frames.ARROW
        else:
            body, media = encode({"rows": rows}), _MSGPACK
        answer = _decoded(self._transport.post(f"/v1/push/{name}", lambda: body, media, params=query))
        return [PushedRows(**view) for view in answer["views"]]

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._transport.close()

    def __enter__(self) -> "RemoteFeatureStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteFeatureStore({self.url!r})"


def _question(features: Any, rows: Any, at: datetime | str | None) -> tuple[list[dict[str, Any]], bytes]:
    given = rows_of(rows)
    instant = at.isoformat() if isinstance(at, datetime) else at
    return given, encode({"features": names_of(features), "rows": given, "at": instant, "types": True})


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(body)
    except msgspec.DecodeError as error:
        raise ServerError(f"The answer is not MessagePack: {error}. Is that a feature server, with nothing between?") from error
