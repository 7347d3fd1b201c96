"""A folder in object storage: the contract, servers that answer otherwise than they ought, and what is kept secret."""

import errno
import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from featurestore.errors import ConfigError, OfflineStoreError
from featurestore.offline.folder import Address, Folder
from featurestore.offline.folder_probe import probe
from featurestore.offline.object_folder import ObjectFolder
from featurestore.testing.folders import FolderContract, Make
from tests.servers.s3_server import KEYS, S3Server
from tests.servers.s3_stub import S3Stub

SECRETS = {
    "AWS_ACCESS_KEY_ID": "RECOGNISEDACCESS",
    "AWS_SECRET_ACCESS_KEY": "RECOGNISEDSECRET",
    "AWS_SESSION_TOKEN": "RECOGNISEDTOKEN",
}


class TestObjectFolder(FolderContract):
    rounds = 2  # SeaweedFS answers one of those who meet, and lets each of the others wait for a second

    @pytest.fixture
    def make(self, s3_url: str) -> Make:
        return partial(ObjectFolder, s3_url)


@pytest.mark.slow
def test_of_many_threads_that_create_one_succeeds(s3_url: str) -> None:
    class Patient(FolderContract):
        rounds = 20

    Patient().test_of_threads_that_create_one_succeeds(ObjectFolder(s3_url))


@pytest.fixture
def folder(stub: S3Stub) -> ObjectFolder:
    """A folder on a server that misbehaves."""
    return ObjectFolder("s3://lake/weather", stub.options, timeout=1)


@pytest.mark.slow
def test_a_large_object(s3_url: str) -> None:
    """What is written goes in parts, what is created in one request."""
    folder = ObjectFolder(s3_url)
    content = os.urandom(1 << 20) * 65
    folder.write("written", content)
    assert folder.create("created", content)
    assert folder.create("created", content[:-1]) is None
    assert folder.create("written", content[:-1]) is None
    assert folder.read("written") == folder.read("created") == content
    assert folder.read("written", start=len(content) - 3) == content[-3:]
    stamp = folder.list("written")[0].stamp
    assert folder.swap("written", content[:-1], stamp)
    assert folder.swap("written", content[:-2], stamp) is None


def test_polars_and_delta_find_it_by_its_address(s3_url: str, seaweed: S3Server) -> None:
    frame = pl.DataFrame({"a": [1, 2, 3]})
    options = {"endpoint": seaweed.url, "region": "us-east-1", "allow_http": "true"}
    folder = ObjectFolder(s3_url, options)
    address = folder.address("a b/part=1/x.parquet")
    frame.write_parquet(address.url, storage_options=dict(address.options))
    assert pl.read_parquet(address.url, storage_options=dict(address.options), glob=False, hive_partitioning=False).equals(frame)
    assert [entry.name for entry in folder.list("")] == ["a b/part=1/x.parquet"]
    table = folder.address("table")
    write_deltalake(table.url, frame, storage_options=dict(table.options))
    assert DeltaTable(table.url, storage_options=dict(table.options)).version() == 0
    assert folder.head("table/_delta_log/00000000000000000000.json")


class TestProbe:
    def test_a_store_that_keeps_conditions(self, s3_url: str) -> None:
        folder = ObjectFolder(s3_url)
        assert probe(folder)
        assert list(folder.list("")) == []

    def test_one_that_replaces_what_was_to_be_created_is_refused(self, stub: S3Stub, folder: ObjectFolder) -> None:
        assert probe(folder)
        stub.conditional = False
        with pytest.raises(OfflineStoreError, match=r"s3://lake/weather cannot keep a history.*If-None-Match.*Use a store"):
            probe(folder)
        assert stub.objects == {}

    def test_one_that_does_not_swap_is_known(self, stub: S3Stub, folder: ObjectFolder) -> None:
        stub.swaps = False
        assert not probe(folder)
        assert stub.objects == {}


class TestAnswers:
    @pytest.mark.parametrize(("lost", "dropped"), [(1, 0), (0, 1), (1, 2)])
    def test_a_creator_whose_answer_was_lost_has_created(self, stub: S3Stub, folder: ObjectFolder, lost: int, dropped: int) -> None:
        stub.lost, stub.dropped = lost, dropped
        stamp = folder.create("a", b"one")
        entry = folder.head("a")
        assert entry is not None
        assert stamp == entry.stamp
        assert (stub.lost, stub.dropped) == (0, 0)
        assert folder.create("a", b"two") is None

    def test_a_swapper_whose_answer_was_lost_has_swapped(self, stub: S3Stub, folder: ObjectFolder) -> None:
        first = folder.create("a", b"one")
        assert first
        stub.lost = 1
        second = folder.swap("a", b"two", first)
        assert second is not None
        assert folder.swap("a", b"six", first) is None
        assert folder.swap("none", b"six", first) is None
        assert folder.swap("a", b"three", second)

    def test_one_whose_request_is_repeated_by_the_client_meets_its_own_object(self, stub: S3Stub, folder: ObjectFolder) -> None:
        """A gateway answers 503 for what is done all the same, the client asks again, and is refused."""
        stub.failures, stub.is_done_on_failure = 1, True
        first = folder.create("a", b"one")
        assert first
        stub.failures = 1
        assert folder.swap("a", b"two", first)
        assert [method for method, key in stub.requests if key == "weather/a"].count("PUT") == 4
        stub.failures, stub.foreign = 1, b"six"
        assert folder.create("b", b"one") is None

    def test_a_conflict_with_nobody_is_tried_again(self, stub: S3Stub, folder: ObjectFolder) -> None:
        stub.conflicts = 3
        first = folder.create("a", b"one")
        assert first
        stub.conflicts = 3
        assert folder.swap("a", b"two", first)
        assert stub.objects == {"weather/a": b"two"}

    def test_a_conflict_with_another_is_lost(self, stub: S3Stub, folder: ObjectFolder) -> None:
        stub.conflicts, stub.foreign = 1, b"two"
        assert folder.create("a", b"one") is None
        assert stub.objects == {"weather/a": b"two"}

    def test_conflicts_without_end_raise(self, stub: S3Stub, folder: ObjectFolder) -> None:
        stub.conflicts = 1000
        with pytest.raises(OSError, match="409") as raised:
            folder.create("a", b"one")
        assert raised.value.errno == errno.EBUSY
        assert stub.objects == {}

    def test_what_a_listing_gives_is_filtered_and_sorted(self, stub: S3Stub, folder: ObjectFolder) -> None:
        for number in range(5):
            folder.write(f"n/{number}", b"")
        folder.write("n0", b"")
        assert [entry.name for entry in folder.list("n/", after="n/2")] == ["n/3", "n/4"]

    def test_a_store_that_complains_of_what_is_not_there_to_delete(self, stub: S3Stub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DISABLE_BULK_DELETE", "true")
        folder = ObjectFolder("s3://lake/weather", stub.options, timeout=1)
        for number in range(5):
            folder.write(f"{number}", b"")
        folder.delete(["none", "0", "none either", "1", "2", "3"])
        folder.delete(["none"])
        assert [*stub.objects] == ["weather/4"]

    def test_a_server_that_is_overloaded_for_a_moment(self, stub: S3Stub, folder: ObjectFolder) -> None:
        stub.failures = 2
        assert folder.create("a", b"one")
        stub.failures = 1000
        with pytest.raises(ConnectionError, match="503"):
            folder.create("b", b"one")

    @pytest.mark.slow
    def test_one_that_never_answers_raises_in_bounded_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            options = {"endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}", "region": "us-east-1", "allow_http": "true"}
            folder = ObjectFolder("s3://lake/weather", options, timeout=0.3)
            for call in calls(folder):
                began = time.monotonic()
                with pytest.raises(TimeoutError, match="does not answer"):
                    call()
                assert time.monotonic() - began < 5

    def test_one_that_is_not_there(self, stub: S3Stub) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
            endpoint = f"http://127.0.0.1:{other.getsockname()[1]}"
            folder = ObjectFolder("s3://lake/weather", {**stub.options, "endpoint": endpoint}, timeout=0.3)
            with ThreadPoolExecutor(10) as pool:  # each call tries for a while
                for answer in [pool.submit(call) for call in calls(folder)]:
                    with pytest.raises(ConnectionError, match=r"cannot be reached.*s3://lake/weather"):
                        answer.result()


def calls(folder: Folder) -> Iterator[Callable[[], Any]]:
    """Each call that asks the store."""
    yield partial(folder.list, "a/")
    yield partial(folder.head, "a")
    yield partial(folder.read, "a")
    yield partial(folder.read, "a", start=1)
    yield partial(folder.create, "a", b"one")
    yield partial(folder.swap, "a", b"two", '"1"')
    yield partial(folder.write, "a", b"three")
    yield partial(folder.delete, ["a"])
    yield partial(folder.delete, ["a", "b"])
    yield partial(probe, folder)


class TestSecrets:
    def shown(self, error: BaseException) -> str:
        """All that a traceback or a log shows of an error, and what is sent of it."""
        return "".join(traceback.format_exception(error)) + repr(error) + repr(pickle.dumps(error))

    def test_no_error_and_no_address_shows_a_key(self, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        folder = ObjectFolder(s3_url)
        text = ""
        for call in calls(folder):
            with pytest.raises(PermissionError, match="credentials in the environment") as raised:
                call()
            assert raised.value.filename.startswith(s3_url)
            text += self.shown(raised.value)
        address = folder.address("a")
        text += f"{folder!r} {folder} {pickle.dumps(folder)!r} {address!r} {address} {pickle.dumps(address)!r} {vars(address)}"
        assert "RECOGNISED" not in text
        copy = pickle.loads(pickle.dumps(folder))
        assert (repr(copy), copy.address("a")) == (repr(folder), address)

    def test_no_answer_is_quoted(self, stub: S3Stub, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        stub.is_indiscreet = True
        folder = ObjectFolder("s3://lake/weather", stub.options, timeout=1)
        for call in (partial(folder.create, "a", b"one"), partial(folder.write, "a", b"one")):
            with pytest.raises(PermissionError, match="answer 403") as raised:
                call()
            assert "RECOGNISED" not in self.shown(raised.value)

    def test_no_variable_of_the_wrong_form_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "RECOGNISED as true")
        with pytest.raises((ConfigError, OSError)) as raised:
            ObjectFolder("s3://lake").head("a")
        assert "RECOGNISED" not in self.shown(raised.value)

    @pytest.mark.parametrize(
        ("url", "options"),
        [
            ("s3://lake", {"aws_secret_access_key": "RECOGNISED"}),
            ("s3://lake", {"AWS_SESSION_TOKEN": "RECOGNISED"}),
            ("az://lake", {"account_key": "RECOGNISED"}),
            ("gs://lake", {"google_service_account_key": "RECOGNISED"}),
            ("s3://lake", {"endpoint_url": "https://me:RECOGNISED@example.org"}),
            ("az://lake/x?sig=RECOGNISED", {}),
            ("s3://me:RECOGNISED@lake/x", {}),
        ],
    )
    def test_an_address_takes_none(self, url: str, options: dict[str, str]) -> None:
        for kind in (Address, ObjectFolder):
            with pytest.raises(ConfigError, match="environment") as raised:
                kind(url, options)
            assert "RECOGNISED" not in self.shown(raised.value)

    def test_options_that_are_none(self) -> None:
        options = {"aws_region": "eu-west-1", "AWS_ENDPOINT_URL": "https://example.org", "virtual_hosted_style_request": "true"}
        assert Address("s3://lake", options).options == options

    @pytest.mark.parametrize("url", ["lake/weather", "s3://", "http://lake/x", "s4://lake", "s3:/lake"])
    def test_what_is_no_address_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigError, match="is not an address in object storage"):
            ObjectFolder(url)


def test_a_bucket_that_is_not_there(seaweed: S3Server, s3_url: str) -> None:
    folder = ObjectFolder("s3://nosuchbucket/x", timeout=2)
    with pytest.raises(OSError, match="no such bucket") as raised:
        folder.list("a/")
    assert not isinstance(raised.value, FileNotFoundError)


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, stub: S3Stub) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{stub.server_port}")
    with pytest.raises(PermissionError, match="no credentials in the environment"):
        ObjectFolder("s3://lake", stub.options, timeout=1).head("a")


def test_plain_http_is_to_be_allowed(stub: S3Stub) -> None:
    options = {name: value for name, value in stub.options.items() if name != "allow_http"}
    with pytest.raises(OSError, match="set allow_http"):
        ObjectFolder("s3://lake", options, timeout=1).head("a")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_refused_and_does_not_hang(s3_url: str) -> None:
    folder = ObjectFolder(s3_url)
    folder.create("a", b"one")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        try:
            folder.head("a")
        except OSError as error:
            queue.put(str(error))
        else:
            queue.put("")

    process = context.Process(target=child)
    process.start()
    process.join(10)
    if process.is_alive():
        process.kill()
        pytest.fail("it hangs")
    assert "forked after its parent" in queue.get()


@pytest.mark.parametrize("switch", ["disabled", "etag"])
def test_the_environment_cannot_switch_conditions_off(s3_url: str, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", switch)
    assert probe(ObjectFolder(s3_url))
