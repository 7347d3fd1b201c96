"""The access log: a line on standard error for each request, for people who watch a server."""

import os
import sys

from featurestore.clock import Clock
from featurestore.server.http.context import RequestContext
from featurestore.server.telemetry.events import NullTelemetry

_PLAIN = dict.fromkeys((*range(32), *range(127, 160)), "?")
"""What a request may say and a line must not: it would end the line, or set the terminal."""


class AccessLog(NullTelemetry):
    """Write when, from where, what was asked, the status, how long it took, and who asked.

    The path is the route's, without a query: names of features may be in the audit log, values are in neither.

    Args:
        clock: returns the present.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def request(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Write a line."""
        client = context.scope.get("client")
        who = context.principal.name.translate(_PLAIN) if context.principal is not None else "-"
        time = self._clock().isoformat(timespec="milliseconds")
        asked = f"{context.scope['method']} {route}"
        line = f"{time} {client[0] if client else '-'} {asked} {status} {seconds * 1e3:.1f} ms {who}\n"
        os.write(sys.stderr.fileno(), line.encode())
