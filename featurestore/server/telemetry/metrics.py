"""Prometheus metrics at ``/metrics``. Counting a request takes a few microseconds.

A request adds to plain numbers in memory, and a thread hands them on to the Prometheus client once a second: with several
workers each of its counters is a write to a file that they share, which is five times as slow as all of that.
"""

import os
import platform
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from featurestore.errors import ClosedError, FeatureStoreError
from featurestore.server.backend import Backend
from featurestore.server.http.context import RequestContext
from featurestore.server.telemetry.events import NullTelemetry

if TYPE_CHECKING:
    from featurestore.materialization.results import PushSummary
    from featurestore.retrieval.online_result import OnlineRows

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which the Prometheus client knows that there are several workers; it must be set before it is imported."""

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
AGES = (1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0)
_EVERY = 1.0
_AGE_EACH = 8
"""Of so many look-ups in a row, the age is taken of one."""
_STATUSES = ("present", "null", "expired", "missing")


class Metrics(NullTelemetry):
    """Count what the server does.

    Args:
        backend: the store that is served.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry, "namespace": "featurestore"}
        self._requests = Counter("requests", "Requests, by route, service and status.", ["route", "service", "status"], **common)
        self._rows = Counter("request_rows", "Rows that requests were about.", ["route", "service"], **common)
        self._seconds = Histogram("request_seconds", "How long requests took.", ["route", "service"], buckets=SECONDS, **common)
        self._values = Counter("feature_values", "Values served, by view and status (S14).", ["view", "status"], **common)
        self._ages = Histogram(
            "feature_age_seconds",
            "How old the newest event was that a look-up served of a view.",
            ["view"],
            buckets=AGES,
            **common,
        )
        self._lags = Gauge(
            "view_lag_seconds", "How long ago the latest event of a view was.", ["view"], multiprocess_mode="mostrecent", **common
        )
        self._trips = Counter("store_round_trips", "What the online store was asked.", **common)
        self._trip_seconds = Counter("store_round_trip_seconds", "How long the online store took to answer, in all.", **common)
        self._trips_failed = Counter("store_round_trips_failed", "What the online store did not answer.", **common)
        self._pushed = Counter("push_rows", "Rows pushed, by view: new, known already, or rejected.", ["view", "outcome"], **common)
        self._logged = Counter("feature_log_rows", "Rows of answers written to the feature log.", ["service"], **common)
        self._dropped = Counter(
            "feature_log_dropped_rows", "Rows that it would not take or could not write.", ["service"], **common
        )
        build = Gauge("build_info", "What runs here.", ["version", "python", "project"], multiprocess_mode="max", **common)
        build.labels(version("featurestore"), platform.python_version(), backend.settings.project).set(1)
        self._trips_told = (0, 0.0, 0)
        self._looked = 0
        self._new()
        self._counting = threading.Lock()
        self._handing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="featurestore-metrics", daemon=True)
        self._thread.start()

    def request(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Count a request."""
        asked = context.resource
        service = asked.names[0] if asked is not None and len(asked.names) == 1 and asked.kind in ("features", "service") else ""
        if service and (status == 404 or service not in self._backend.catalog.services):
            service = ""  # whatever was asked for, only what there is becomes a label
        key = (route, service)
        with self._counting:
            self._asked[route, service, str(status)] += 1
            self._took[key].append(seconds)
            self._about[key] += context.rows

    def online(self, selection_name: str, rows: "OnlineRows") -> None:
        """Count the values of an answer, and now and then how old they are."""
        aged = self._looked % _AGE_EACH == 0
        self._looked += 1
        with self._counting:
            for view, present, null, expired, missing, age in rows.status_counts():
                counts = self._served[view]
                counts[0] += present
                counts[1] += null
                counts[2] += expired
                counts[3] += missing
                if aged and age is not None:
                    self._aged.append((view, max(0.0, age)))

    def push(self, summary: "PushSummary") -> None:
        """Count what a push did."""
        for pushed in summary:
            counts = (("new", pushed.rows_new), ("known", pushed.rows_known), ("rejected", pushed.rows_rejected),
                    ("waiting", pushed.rows_waiting))  # fmt: skip
            for outcome, number in counts:
                self._pushed.labels(pushed.view, outcome).inc(number)

    def logged(self, service: str, written: int, dropped: int) -> None:
        """Count what became of answers that were to be logged."""
        self._logged.labels(service).inc(written)
        self._dropped.labels(service).inc(dropped)

    def close(self) -> None:
        """Hand the last numbers on."""
        self._stop.set()
        self._thread.join()
        self.hand_on()

    def metrics(self) -> bytes:
        """Return all metrics, of all workers, as Prometheus reads them."""
        self.hand_on()
        with suppress(FeatureStoreError):  # a store that cannot be read is what /readyz reports
            for view, lag in self._backend.view_lags().items():
                self._lags.labels(view).set(lag)
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]  # it has no types
        return generate_latest(every)

    def hand_on(self) -> None:
        """Hand on what was counted since the last time."""
        with self._handing:
            with self._counting:
                took, asked, about, served, aged = self._took, self._asked, self._about, self._served, self._aged
                self._new()
            for key, number in asked.items():
                self._requests.labels(*key).inc(number)
            for (route, service), number in about.items():
                self._rows.labels(route, service).inc(number)
            for (route, service), durations in took.items():
                observe = self._seconds.labels(route, service).observe
                for seconds in durations:
                    observe(seconds)
            for view, counts in served.items():
                for status, number in zip(_STATUSES, counts, strict=True):
                    if number:
                        self._values.labels(view, status).inc(number)
            for view, age in aged:
                self._ages.labels(view).observe(age)
            trips = self._backend.round_trips
            now = (trips.count, trips.seconds, trips.failed)
            for counter, new, old in zip((self._trips, self._trip_seconds, self._trips_failed), now, self._trips_told, strict=True):
                counter.inc(new - old)
            self._trips_told = now

    def _new(self) -> None:
        self._asked: dict[tuple[str, str, str], int] = defaultdict(int)
        self._took: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._about: dict[tuple[str, str], int] = defaultdict(int)
        self._served: dict[str, list[int]] = defaultdict(lambda: [0] * len(_STATUSES))
        self._aged: list[tuple[str, float]] = []

    def _run(self) -> None:
        while not self._stop.wait(_EVERY):
            try:
                self.hand_on()
            except ClosedError:  # the store was closed, and with it what is served
                return


@contextmanager
def shared_by(workers: int) -> Iterator[None]:
    """Give several workers a folder to count in together, for as long as the service runs."""
    if workers == 1 or FOLDER in os.environ:
        yield
        return
    folder = tempfile.mkdtemp(prefix="featurestore-metrics-")
    os.environ[FOLDER] = folder
    try:
        yield
    finally:
        del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)
