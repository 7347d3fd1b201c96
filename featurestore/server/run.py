"""Running the server: sockets, worker processes, TLS, and a graceful shutdown."""

import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette

from featurestore.config import Settings
from featurestore.errors import ConfigError
from featurestore.server.app import create_app
from featurestore.server.backend import backend_of
from featurestore.server.http.connection import Connections, Ends
from featurestore.server.http.memory import give_back_large_blocks
from featurestore.server.security.guard import make_guard, require_access
from featurestore.server.telemetry.fan_out import make_observer
from featurestore.server.telemetry.metrics import shared_by
from featurestore.server.workers import Workers
from featurestore.store import FeatureStore

_BACKLOG = 2048
_RESERVE = 256
"""The file descriptors that are kept from connections: for stores, logs and bodies."""


@dataclass(frozen=True)
class AppOf:
    """Make the application in a worker process, which gets this and nothing else of its parent.

    Args:
        root: the project's folder.
        given: the settings that were given by keyword, beside those of the file and of the environment.
    """

    root: Path
    given: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Starlette:
        """Return the application, over a store of its own that closes with it."""
        give_back_large_blocks()
        store = FeatureStore(self.root, **self.given)
        backend = backend_of(store)
        return create_app(backend, guard=make_guard(backend), observer=make_observer(backend), closing=True, warm=True)


def serve(
    root: Path, given: dict[str, Any], settings: Settings, *, uds: Path | None = None, ready: Callable[[str], None] | None = None
) -> None:
    """Serve a project until the process is stopped (SIGTERM, Ctrl-C); requests in flight are answered first.

    A worker that dies is replaced. With several workers SIGHUP replaces them one after another, which takes up changed
    certificates and definitions; what is applied they notice by themselves.

    Args:
        root: the project's folder.
        given: settings by keyword.
        settings: all settings, of which ``given`` is a part.
        uds: the path of a Unix socket to listen on instead of an address.
        ready: called with the URL once the socket is there.

    Raises:
        ConfigError: the address is taken or is none, a certificate is missing, or others than this machine could reach the
            server and everybody would be admitted.
    """
    _check_tls(settings)
    _check_reach(settings, root, given, uds)
    listening = _unix_socket(uds) if uds is not None else _tcp_socket(settings)
    config = uvicorn.Config(
        AppOf(root, given),
        factory=True,
        workers=settings.server.workers,
        loop="uvloop",
        http=cast("Any", Connections(_ends(settings))),  # uvicorn calls it; a class of its own could not be sent to workers
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=max(1, round(settings.server.keep_alive.total_seconds())),
        timeout_worker_healthcheck=max(1, round(settings.server.worker_timeout.total_seconds())),
        timeout_graceful_shutdown=max(1, round(settings.server.shutdown_timeout.total_seconds())),
        ssl_certfile=settings.server.tls_cert or None,
        ssl_keyfile=settings.server.tls_key or None,
    )
    try:
        if ready is not None:
            ready(_url(listening, settings, uds))
        if settings.server.workers > 1:
            with shared_by(settings.server.workers):
                Workers(config, [listening]).run()
        else:
            # NOTE: once all is closed, uvicorn raises the signal anew.
            signal.signal(signal.SIGTERM, _ended)
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        if uds is not None:
            uds.unlink(missing_ok=True)


def _ends(settings: Settings) -> Ends:
    """Return the ends of connections.

    The descriptors that a process may have are raised to what they need, if that is allowed. Else there are fewer connections, so
    that some descriptors are always left for files.
    """
    server = settings.server
    wanted = server.max_connections + _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    possible = server.max_connections if soft == resource.RLIM_INFINITY else min(server.max_connections, soft - _RESERVE)
    connections = max(1, possible)
    of_address = min(server.max_connections_per_address or connections, connections)
    return Ends(
        connections, of_address, int(server.max_head_kib * 1024), server.max_headers, server.head_timeout.total_seconds(),
        server.request_timeout.total_seconds(),
    )  # fmt: skip


def _ended(number: int, frame: object) -> None:
    """End the process as one that has done what it was to do."""
    raise SystemExit(0)


def _url(listening: socket.socket, settings: Settings, uds: Path | None) -> str:
    if uds is not None:
        return f"unix:{uds}"
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    return f"http{'s' if settings.server.tls_cert else ''}://{host}:{listening.getsockname()[1]}"


def _check_reach(settings: Settings, root: Path, given: dict[str, Any], uds: Path | None) -> None:
    if uds is not None:
        return
    with FeatureStore(root, **given) as store:
        require_access(store)


def _tcp_socket(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"Nothing can listen on {host}:{port} ({error.strerror or error}). Take another --port, or end what is there."
        ) from error
    listener.set_inheritable(True)
    return listener


def _unix_socket(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()  # of a server that was killed
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"Nothing can listen on the socket {path} ({error.strerror or error}).") from error
    listener.set_inheritable(True)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _check_tls(settings: Settings) -> None:
    named = {"server.tls_cert": settings.server.tls_cert, "server.tls_key": settings.server.tls_key}
    for name, path in named.items():
        if path and not Path(path).is_file():
            raise ConfigError(f"{name}={path!r} is not there. Name a PEM file.")
    if bool(settings.server.tls_cert) != bool(settings.server.tls_key):
        raise ConfigError("TLS needs both a certificate and its key: --tls-cert cert.pem --tls-key key.pem.")
