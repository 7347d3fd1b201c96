"""A real S3 server, SeaweedFS from its wheel: on free ports of the loopback interface, in a folder of its own."""

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from featurestore.testing.waiting import wait_until
from tests.servers.valkey import free_port

_PATIENCE = 20.0
_PORTS = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer", "admin") for kind in ("", ".grpc")]
BUCKET = "history"
KEYS = {"AWS_ACCESS_KEY_ID": "seaweedaccesskey", "AWS_SECRET_ACCESS_KEY": "seaweedsecretkey"}
"""Who may do everything there."""


class SeaweedServer:
    """A server that a test may stop and start again at the same address."""

    def __init__(self) -> None:
        # NOTE: a short path: the address of a Unix socket has room for some hundred bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        self._ports = {name: free_port() for name in _PORTS}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment that a client needs."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}

    def start(self) -> Self:
        binary = Path(sysconfig.get_path("scripts")) / "weed"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    binary, "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                    *(f"-{name}={port}" for name, port in self._ports.items()),
                    f"-filer.localSocket={self.folder / 'filer'}", f"-s3.localSocket={self.folder / 's3'}",
                    "-master.telemetry=false", "-webdav=false", "-admin.ui=false",
                    # NOTE: else it listens at ports that are always the same, and a second server ends at once.
                    "-s3.port.iceberg=0", "-s3.port.lance=0",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, env=os.environ | KEYS,
            )  # fmt: skip
        wait_until(self._answers, f"{binary} does not start: see {self.folder / 'log'}")
        return self

    def stop(self) -> None:
        """Ends the server, and waits until it has ended: nothing that it has is wanted any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_PATIENCE)
            self._process = None
        for name, port in self._ports.items():
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}-grpc-{port}.sock").unlink(
                missing_ok=True
            )  # whose place it does not let say

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        """Makes the bucket, and whether a client can use it."""
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"the server ended: {(self.folder / 'log').read_text()}")
        filer = f"http://127.0.0.1:{self._ports['filer.port']}/buckets/{BUCKET}/"
        options = {
            "endpoint": self.url, "region": "us-east-1",
            "access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
        }  # fmt: skip
        try:
            with suppress(HTTPError), urlopen(Request(filer, method="POST"), timeout=5):  # it was made before
                pass
            store = S3Store(BUCKET, config=options, client_options={"allow_http": True}, retry_config={"max_retries": 0})
            obstore.put(store, "_ready", b"yes")
            return bytes(obstore.get(store, "_ready").bytes()) == b"yes"
        except (OSError, BaseError):
            return False


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    """An S3 server with a bucket."""
    with SeaweedServer() as server:
        yield server


@pytest.fixture
def s3_url(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of one's own in object storage, with an environment in which clients find it."""
    for name, value in seaweed.variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex}"
