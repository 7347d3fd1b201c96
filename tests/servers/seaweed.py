"""A real S3 server for tests, one a session."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.servers.s3_server import BUCKET, S3Server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[S3Server]:
    """An S3 server with a bucket."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_url(seaweed: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of one's own in object storage, with an environment in which clients find it."""
    for name, value in seaweed.variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex}"
