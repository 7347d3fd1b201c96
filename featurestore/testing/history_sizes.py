"""The contract of what tells the sizes of histories without the store: every adapter's tests subclass it."""

import pytest

from featurestore.offline.base import OfflineStore
from featurestore.offline.history_size import HistorySize, HistorySizes
from featurestore.testing.offline import PLAIN, rows, run
from featurestore.testing.push_log import fold


def size_of(sizes: HistorySizes) -> HistorySize | None:
    """Return the size of ``PLAIN``."""
    return sizes.size(PLAIN.project, PLAIN.view, PLAIN.data_version)


class HistorySizesContract:
    """It says what a snapshot says, or leaves it to the store. Subclasses give ``store`` and ``sizes``: both of one empty place."""

    @pytest.fixture
    def store(self) -> OfflineStore:
        raise NotImplementedError("the adapter's tests bring the store")

    @pytest.fixture
    def sizes(self, store: OfflineStore) -> HistorySizes:
        raise NotImplementedError("the adapter's tests bring what tells the sizes of its histories")

    def test_no_history_is_empty(self, sizes: HistorySizes) -> None:
        assert size_of(sizes) == HistorySize(0, None)

    def test_what_runs_have_written_is_known(self, store: OfflineStore, sizes: HistorySizes) -> None:
        run(store, PLAIN, 1, rows(("JFK", 5, 6, 1.0), ("LGA", -7, 1, None)), rows(("JFK", 3, 9, 2.0)))
        assert size_of(sizes) == store.snapshot(PLAIN).history_size == HistorySize(3, 5)
        run(store, PLAIN, 2, rows(("BOS", 4, 4, 1.0)))
        assert size_of(sizes) == store.snapshot(PLAIN).history_size == HistorySize(4, 5)
        run(store, PLAIN, 3, rows())
        assert size_of(sizes) == HistorySize(4, 5)

    def test_pushed_rows_are_never_left_out(self, store: OfflineStore, sizes: HistorySizes) -> None:
        run(store, PLAIN, 1, rows(("JFK", 5, 6, 1.0)))
        store.log.append(PLAIN, rows(("JFK", 9, 9, 2.0), ("LGA", 8, 8, 2.0)))
        assert size_of(sizes) in (None, HistorySize(3, 9))
        fold(store, PLAIN, 2)
        assert size_of(sizes) in (None, HistorySize(3, 9))
        store.log.append(PLAIN, rows(("JFK", 10, 10, 2.0)))
        store.log.remove(PLAIN)
        assert size_of(sizes) in (None, HistorySize(4, 10))
        fold(store, PLAIN, 3)
        store.log.remove(PLAIN)
        assert size_of(sizes) in (None, HistorySize(4, 10))

    def test_rows_that_were_only_pushed_are_never_left_out(self, store: OfflineStore, sizes: HistorySizes) -> None:
        store.log.append(PLAIN, rows(("JFK", 9, 9, 2.0)))
        assert size_of(sizes) in (None, HistorySize(1, 9))

    def test_a_history_that_was_dropped_is_empty(self, store: OfflineStore, sizes: HistorySizes) -> None:
        run(store, PLAIN, 1, rows(("JFK", 5, 6, 1.0)))
        store.drop(PLAIN)
        assert size_of(sizes) == HistorySize(0, None)
