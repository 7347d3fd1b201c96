"""A real S3 server, SeaweedFS from its wheel: on free ports of the loopback interface, in a folder of its own.

python -m tests.servers.s3_server COMMAND...     runs a command with a history in a bucket of one
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.servers.ports import free_port

_PATIENCE = 20.0
_PORTS = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer", "admin") for kind in ("", ".grpc")]
BUCKET = "history"
KEYS = {"AWS_ACCESS_KEY_ID": "seaweedaccesskey", "AWS_SECRET_ACCESS_KEY": "seaweedsecretkey"}
"""Who may do everything there."""


class S3Server:
    """A server with a bucket, that may be stopped and started again at the same address. It is a context manager."""

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
        binary = _binary()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    binary, f"-logdir={self.folder}", "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                    *(f"-{name}={port}" for name, port in self._ports.items()),
                    f"-filer.localSocket={self.folder / 'filer'}", f"-s3.localSocket={self.folder / 's3'}",
                    "-master.telemetry=false", "-webdav=false", "-admin.ui=false",
                    # NOTE: else it listens at ports that are always the same, and a second server ends at once.
                    "-s3.port.iceberg=0", "-s3.port.lance=0",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, env=os.environ | KEYS,
            )  # fmt: skip
        end = perf_counter() + _PATIENCE
        while not self._answers():
            if perf_counter() > end:
                raise RuntimeError(f"{binary} does not start: see {self.folder / 'log'}")
            sleep(0.01)
        return self

    def keep_versions(self, bucket: str) -> None:
        """Makes another bucket, which keeps what is deleted as older versions."""
        commands = f"s3.bucket.create -name {bucket}\ns3.bucket.versioning -name {bucket} -enable\n"
        masters = f"127.0.0.1:{self._ports['master.port']}.{self._ports['master.port.grpc']}"
        filer = f"127.0.0.1:{self._ports['filer.port']}.{self._ports['filer.port.grpc']}"
        subprocess.run(
            [_binary(), f"-logdir={self.folder}", "shell", f"-master={masters}", f"-filer={filer}"],
            input=commands, text=True, capture_output=True, check=True, cwd=self.folder, timeout=_PATIENCE,
        )  # fmt: skip

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
        """Make the bucket, and return whether a client can use it."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the server ended: {(self.folder / 'log').read_text()}")
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


def _binary() -> Path:
    return Path(sysconfig.get_path("scripts")) / "weed"


def main() -> int:
    """Run a command with a server beside it, and an environment in which clients find it."""
    with S3Server() as server:
        variables = {**server.variables, "FEATURESTORE_OFFLINE": f"s3://{BUCKET}/featurestore"}
        return subprocess.run(sys.argv[1:], env=os.environ | variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
