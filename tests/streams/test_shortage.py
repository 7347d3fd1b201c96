"""What the machine lacks while rows are pushed is no row's fault: entries wait for it, and one that takes too much is found."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureView
from featurestore.materialization.push import Pusher
from featurestore.streams import worker as stream
from featurestore.streams.base import Entry
from featurestore.streams.decoder import EntryDecoder
from tests.effort import few
from tests.servers.valkey import wait_until
from tests.streams.test_worker import Broker, broker, drain, latest, row, store_with, working

__all__ = ["broker"]

LACKS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "memory": (MemoryError, "not enough memory"),
    "a thread": (lambda: RuntimeError("can't start new thread"), "can't start new thread"),
    **{
        errno.errorcode[number]: (lambda number=number: OSError(number, os.strerror(number)), os.strerror(number))  # type: ignore[misc]  # mypy infers no lambda's default
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS)
    },
    "room, says Polars": (
        lambda: pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
        "No space left on device",
    ),
    "memory, for a transform": (lambda: with_cause(MemoryError()), "not enough memory"),
}


def with_cause(cause: BaseException) -> BaseException:
    from featurestore.errors import DefinitionError

    error = DefinitionError("the transform fails")
    error.__cause__ = cause
    return error


class Pushes:
    """Pushes that fail while something is lacking, or at some keys."""

    def __init__(self, whole: Callable[..., Any]) -> None:
        self.lack: Callable[[], BaseException] | None = None
        self.at: tuple[str, ...] = ()
        self.failed = 0
        self._whole = whole

    def __call__(self, pusher: Pusher, views: Any, rows: pl.DataFrame, **options: Any) -> Any:
        if self.lack is not None and (not self.at or set(self.at) & set(rows["k"])):
            self.failed += 1
            raise self.lack()
        return self._whole(pusher, views, rows, **options)


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> Pushes:
    made = Pushes(Pusher.push)
    monkeypatch.setattr(Pusher, "push", lambda self, views, rows, **options: made(self, views, rows, **options))
    monkeypatch.setattr(stream, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(stream, "_LONGEST_PAUSE", 0.02)
    return made


@pytest.mark.parametrize("name", few(LACKS, ["memory", "ENOSPC", "room, says Polars"]))
def test_what_the_machine_lacks_sets_nothing_aside(tmp_path: Path, broker: Broker, pushes: Pushes, name: str) -> None:
    make, told = LACKS[name]
    with store_with(tmp_path, latest(broker.source())) as store, working(store) as counts:
        broker.add(row("first", 1))
        wait_until(lambda: counts().entries == 1, "it is not pushed")
        pushes.lack = make
        broker.add(*(row(f"{number}", number) for number in range(20)))
        wait_until(lambda: pushes.failed > 25, "it does not try again")
        wait_until(lambda: told in counts().error, "it does not say what is lacking")
        assert (counts().entries, counts().set_aside) == (1, 0)
        pushes.lack = None
        wait_until(lambda: counts().entries == 21 and not counts().error, "it does not go on")
        assert (counts().rows_new, counts().set_aside) == (21, 0)


@pytest.mark.parametrize("asks", [KeyboardInterrupt, SystemExit])
def test_what_asks_the_process_to_end_ends_it(tmp_path: Path, broker: Broker, pushes: Pushes, asks: type[BaseException]) -> None:
    with store_with(tmp_path, latest(broker.source())) as store:
        broker.add(row("a", 1), row("b", 2))
        pushes.lack = asks
        with pytest.raises(asks):
            drain(store)
        assert store.streams.dead_letters.list("orders") == []
        pushes.lack = None
        assert drain(store).entries == 2


@pytest.mark.parametrize("keys", [("3", "11"), ("0",), ("19",)])
def test_a_row_at_which_alone_memory_ends_is_set_aside(
    tmp_path: Path, broker: Broker, pushes: Pushes, keys: tuple[str, ...]
) -> None:
    with store_with(tmp_path, latest(broker.source())) as store:
        pushes.lack, pushes.at = MemoryError, keys
        broker.add(*(row(f"{number}", number) for number in range(20)))
        counts = drain(store)
        assert (counts.entries, counts.rows_new, counts.set_aside, counts.error) == (20, 20 - len(keys), len(keys), "")
        aside = store.streams.dead_letters.list("orders")
        assert all("MemoryError: there is not enough memory for it, but for others" in each.reason for each in aside)
        pushes.lack = None
        assert store.streams.dead_letters.requeue("orders") == len(keys)
        assert drain(store).rows_new == len(keys)


def test_a_stream_does_not_stop_at_the_first_and_only_row_that_takes_too_much(
    tmp_path: Path, broker: Broker, pushes: Pushes
) -> None:
    with store_with(tmp_path, latest(broker.source())) as store:
        pushes.lack, pushes.at = MemoryError, ("a",)
        broker.add(row("a", 1))
        assert drain(store).set_aside == 1
        assert pushes.failed == 2 * stream.MOST_TRIES


def test_memory_that_comes_back_while_a_row_is_suspected_clears_it(tmp_path: Path, broker: Broker, pushes: Pushes) -> None:
    with store_with(tmp_path, latest(broker.source())) as store:
        failures = iter([MemoryError()] * (stream.MOST_TRIES - 1))

        def make() -> BaseException:
            error = next(failures, None)
            if error is None:
                pushes.lack = None
                return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return error

        pushes.lack, pushes.at = make, ("a",)
        broker.add(row("a", 1))
        counts = drain(store)
        assert (counts.set_aside, counts.rows_new) == (0, 1)


def test_an_entry_that_memory_does_not_suffice_to_read_is_set_aside(
    tmp_path: Path, broker: Broker, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EntryDecoder._from_json

    def read(self: EntryDecoder, entry: Entry) -> Any:
        if b'"large"' in entry.fields[b"payload"]:
            raise MemoryError
        return whole(self, entry)

    monkeypatch.setattr(EntryDecoder, "_from_json", read)
    with store_with(tmp_path, latest(broker.source())) as store:
        broker.add(*(row("large" if number == 7 else f"{number}", number) for number in range(20)))
        counts = drain(store)
        assert (counts.entries, counts.rows_new, counts.set_aside) == (20, 19, 1)


def test_a_transform_that_lacks_something_waits_also_where_features_are_personal(
    tmp_path: Path, broker: Broker, pushes: Pushes
) -> None:
    lacking: list[BaseException] = []

    class Personal(FeatureView, entity=Entity("thing", k=str), source=broker.source()):
        x: float | None = Feature(pii=True)

        @staticmethod
        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            if lacking:
                raise lacking[0]
            return rows

    with store_with(tmp_path, Personal) as store, working(store) as counts:
        broker.add(row("a", 1))
        wait_until(lambda: counts().entries == 1, "it is not pushed")
        lacking.append(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/home/ann"))
        broker.add(row("b", 2))
        wait_until(lambda: "fails: OSError" in counts().error, "it does not wait")
        assert "ann" not in counts().error
        lacking.clear()
        wait_until(lambda: counts().entries == 2, "it does not go on")
        assert counts().set_aside == 0
