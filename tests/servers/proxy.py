"""A proxy between clients and a server that can fall silent: it hears what is sent, and nothing comes back any more."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Passes bytes between a port of the loopback interface and a server, until it is told to fall silent.

    Args:
        connect: connects to the server.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._silent = threading.Event()
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def fall_silent(self) -> None:
        """From now on takes what is sent, on old connections and new ones, and answers nothing."""
        self._silent.set()

    def speak(self) -> None:
        """Serves new connections again; those that were silent stay so, as after a failure of a network they do."""
        self._silent.clear()

    def close(self) -> None:
        self._closed.set()
        for each in [self._listener, *self._sockets]:
            each.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            thread = threading.Thread(target=self._pass, args=(client,), daemon=True)
            self._threads.append(thread)
            self._sockets.append(client)
            thread.start()

    def _pass(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            server: socket.socket | None = None
            dead = False
            while not self._closed.is_set():
                dead = dead or self._silent.is_set()
                if server is None and not dead:
                    server = self._connect()
                    self._sockets.append(server)
                ends = [client] if server is None or dead else [client, server]
                for end in select.select(ends, [], [], 0.05)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    if not (dead or self._silent.is_set()) and server is not None:
                        (server if end is client else client).sendall(data)


@contextmanager
def proxy_of_socket(path: str) -> Iterator[Proxy]:
    """A proxy of a server on a Unix socket."""

    def connect() -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        return server

    proxy = Proxy(connect)
    try:
        yield proxy
    finally:
        proxy.close()
