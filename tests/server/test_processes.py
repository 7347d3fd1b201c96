"""``featurestore serve`` in processes of its own: what it prints, several workers, an end that lets requests finish."""

import os
import shlex
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest

from featurestore import FeatureStore
from featurestore.client import RemoteFeatureStore
from featurestore.errors import ConfigError
from featurestore.server.run import serve
from tests.effort import spread
from tests.server.conftest import Serve
from tests.servers.valkey import certificate, wait_until

BODY = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}], "metadata": False}


def test_the_line_that_it_prints_is_answered_and_names_nobody(lab_folder: Path) -> None:
    with Serve(lab_folder) as server:
        assert f"{server.url}/docs" in server.told
        [line] = [line for line in server.told.splitlines() if line.startswith("try: ")]
        done = subprocess.run(shlex.split(line.removeprefix("try: ")), capture_output=True, text=True, check=True)
        assert '"features"' in done.stdout, done.stdout
        for entity in ("JFK", "LGA", "EWR", "BOS"):  # what it asks about is made up (K14)
            assert entity not in line
        assert "this machine's own requests are admitted without a key" in server.told
        assert server.end() == 0


@pytest.mark.parametrize(("workers", "number"), spread(["1", "2"], [signal.SIGTERM, signal.SIGINT]))
def test_who_is_told_to_end_ends_well(lab_folder: Path, workers: str, number: int) -> None:
    with Serve(lab_folder, "--workers", workers) as server:
        wait_until(lambda: answers(server), "it does not answer")
        assert server.end(number) == 0


@pytest.mark.slow
def test_a_hangup_replaces_the_workers_while_requests_are_answered(lab_folder: Path) -> None:
    with Serve(lab_folder, "--workers", "2") as server:
        wait_until(lambda: len(workers(server)) == 2 and answers(server), "the workers do not start")
        before = {each.pid for each in workers(server)}
        server.process.send_signal(signal.SIGHUP)
        found = []
        with RemoteFeatureStore(server.url) as remote:

            def replaced() -> bool:
                found.append(remote.online("weather.temp", [{"origin": "JFK"}]).to_dicts()[0]["temp"])
                now = {each.pid for each in workers(server)}
                return len(now) == 2 and not now & before

            wait_until(replaced, "they are not replaced")
        assert set(found) == {51.0}
        assert server.end() == 0


def answers(server: Serve) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{server.url}/healthz").status_code == 200
    return False


def test_a_request_in_flight_is_answered_before_it_ends(lab_folder: Path) -> None:
    with Serve(lab_folder) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = httpx.Request("POST", "http://x", json=BODY).content
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = (
                f"POST /v1/online HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body[:10])
            wait_until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200, "it does not answer")
            server.process.send_signal(signal.SIGTERM)

            def refuses() -> bool:
                try:
                    socket.create_connection((host, int(port)), timeout=1).close()
                except OSError:
                    return True
                return False

            wait_until(refuses, "it goes on taking connections")
            connection.sendall(body[10:])
            answer = b""
            while chunk := connection.recv(65_536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b'{"temp":[51.0]}' in answer
        assert server.process.wait(20) == 0


def workers(server: Serve) -> list[psutil.Process]:
    """The worker processes: those children that listen."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):  # one that was killed and is not yet buried
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return sorted(found, key=lambda child: child.pid)


def test_a_worker_that_is_killed_under_load_is_replaced_and_the_others_answer(lab_folder: Path) -> None:
    with Serve(lab_folder, "--workers", "2") as server:
        wait_until(lambda: len(workers(server)) == 2, "the workers do not start")
        with RemoteFeatureStore(server.url, retries=10) as remote:
            wait_until(lambda: bool(remote.online("weather.temp", [{"origin": "JFK"}])), "they do not answer")
            answers: list[object] = []
            done = threading.Event()

            def load() -> None:
                while not done.is_set():
                    answers.append(remote.online("weather.temp", [{"origin": "JFK"}]).to_dicts()[0]["temp"])

            threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            killed = workers(server)[0].pid
            os.kill(killed, signal.SIGKILL)
            before = len(answers)
            wait_until(lambda: len(answers) > before + 50, "the others do not answer")
            wait_until(lambda: len({each.pid for each in workers(server)} - {killed}) == 2, "it is not replaced")
            done.set()
            for thread in threads:
                thread.join()
        assert set(answers) == {51.0}
        assert server.end() == 0


def test_over_tls(lab_folder: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with Serve(lab_folder, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        assert server.url.startswith("https://")
        with RemoteFeatureStore(server.url, verify=False) as remote:
            assert remote.training_frame(
                pl.DataFrame({"origin": ["JFK"], "event_time": ["2026-01-02"]}).with_columns(
                    pl.col("event_time").str.to_datetime()
                ),
                "weather.temp",
            )["temp"].to_list() == [51.0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"server": {"host": "0.0.0.0"}}, "can be reached from elsewhere"),
        ({"server": {"host": "256.1.1.1"}}, "."),
        ({"server": {"tls_cert": "nowhere.pem"}}, "is not there"),
        ({"server": {"tls_cert": __file__}}, "both a certificate and its key"),
    ],
)  # fmt: skip
def test_what_it_refuses_to_begin_with(lab: FeatureStore, given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        serve(lab.settings.root, given, lab.settings.replace(**given))


def test_a_port_that_is_taken_is_told(lab: FeatureStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = {"server": {"port": taken.getsockname()[1]}}
        with pytest.raises(ConfigError, match="Nothing can listen"):
            serve(lab.settings.root, given, lab.settings.replace(**given))
