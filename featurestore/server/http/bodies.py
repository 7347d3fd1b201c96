"""Request bodies: read in pieces, within limits, and counted while they are held."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from starlette.requests import Request

from featurestore.errors import LimitError
from featurestore.server.http.context import RequestContext, context_of
from featurestore.server.http.problems import Problem


async def read_body(request: Request, most: int) -> bytes | bytearray:
    """Return the whole body of a request.

    Args:
        request: the request.
        most: how many bytes it may have.

    Raises:
        LimitError: it has more; it is not read to its end.
        UnavailableError: the bodies that are held already take too much.
        ClientDisconnect: the client went away.
    """
    context = context_of(request)
    check_length(context, most)
    async with aclosing(request.stream()) as chunks:
        first = await anext(chunks)
        return check_size(first, most) if context.uploaded else await gather(context, first, chunks, most)


async def gather(context: RequestContext, first: bytes, chunks: AsyncIterator[bytes], most: int) -> bytearray:
    """Return a body that comes in several pieces, the first of which is there. Raises as ``read_body``."""
    whole = bytearray(check_size(first, most))
    context.hold(len(first))
    async for chunk in chunks:
        if len(whole) + len(chunk) > most:
            raise too_large(f"more than {most:,} bytes", most)
        context.hold(len(chunk))
        whole += chunk
    return whole


async def stream_body(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """Yield a body as it comes; the caller keeps none of it in memory for long. Raises LimitError and ClientDisconnect."""
    check_length(context_of(request), most)
    received = 0
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            received += len(chunk)
            if received > most:
                raise too_large(f"more than {most:,} bytes", most)
            yield chunk


def check_length(context: RequestContext, most: int) -> None:
    """Refuse a body that is announced as too large, before any of it is read. Raises LimitError."""
    announced = context.header(b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > most:
        raise too_large(f"{int(announced):,} bytes", most)


def check_size(body: bytes, most: int) -> bytes:
    """Return a body that came in one piece. Raises LimitError where it is too large."""
    if len(body) > most:
        raise too_large(f"more than {most:,} bytes", most)
    return body


def too_large(size: str, most: int) -> LimitError:
    """Return the error of a body that is too large."""
    return LimitError(
        f"The body has {size}, and {most:,} are allowed here. Send it in parts (server.max_body_mib, server.max_spine_mib).",
        "body",
    )


def query_of(request: Request) -> Mapping[str, str]:
    """Return the parameters of a request's query.

    Raises:
        Problem: one is given twice (400).
    """
    parameters: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in parameters:
            raise Problem(400, "malformed", f"The parameter {name!r} is given twice.")
        parameters[name] = value
    return parameters
