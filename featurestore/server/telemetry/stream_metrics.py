"""Prometheus metrics of streams: their lag, and the work of this process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from featurestore.errors import ConfigError

if TYPE_CHECKING:
    from featurestore.streams.control import StreamStatus
    from featurestore.streams.counts import StreamCounts


class StreamCollector(Collector):
    """Ask the streams when the metrics are scraped.

    Args:
        status: returns how the streams stand.
        counts: what the workers did, by source.
    """

    def __init__(self, status: "Callable[[], list[StreamStatus]]", counts: "Mapping[str, StreamCounts]") -> None:
        self._status = status
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        gauges = {
            "waiting": GaugeMetricFamily(
                "featurestore_stream_lag_entries", "Entries that no worker was given yet.", labels=["source"]
            ),
            "pending": GaugeMetricFamily(
                "featurestore_stream_pending_entries", "Entries that a worker was given, not in both stores yet.", labels=["source"]
            ),
            "seconds": GaugeMetricFamily(
                "featurestore_stream_lag_seconds",
                "How long ago the oldest entry came that is not in both stores.",
                labels=["source"],
            ),
            "set_aside": GaugeMetricFamily(
                "featurestore_stream_set_aside_entries", "Entries that are set aside.", labels=["source"]
            ),
            "lost": GaugeMetricFamily(
                "featurestore_stream_lost_entries",
                "Entries that the broker dropped before they were in both stores.",
                labels=["source"],
            ),
            "ahead": GaugeMetricFamily(
                "featurestore_stream_clock_ahead_seconds",
                "How far the broker's clock is ahead of this machine's.",
                labels=["source"],
            ),
        }
        reached = GaugeMetricFamily("featurestore_stream_up", "Whether the broker can be reached.", labels=["source"])
        for stream in self._status():
            reached.add_metric([stream.source], 0.0 if stream.error else 1.0)
            for name, gauge in gauges.items():
                if not stream.error:
                    gauge.add_metric([stream.source], getattr(stream, name))
        yield from (*gauges.values(), reached)
        unknown = GaugeMetricFamily(
            "featurestore_stream_unknown_entries", "Entries that wait here, for their rows are not known yet.", labels=["source"]
        )
        entries = CounterMetricFamily("featurestore_stream_entries", "Entries that were done with.", labels=["source"])
        rows = CounterMetricFamily(
            "featurestore_stream_rows", "Rows that views got: new, known already, or rejected.", labels=["source", "outcome"]
        )
        aside = CounterMetricFamily("featurestore_stream_entries_set_aside", "Entries that were set aside here.", labels=["source"])
        pushes = CounterMetricFamily("featurestore_stream_pushes", "Pushes.", labels=["source"])
        seconds = CounterMetricFamily("featurestore_stream_push_seconds", "How long they took, in all.", labels=["source"])
        for name, did in list(self._counts.items()):
            entries.add_metric([name], did.entries)
            for outcome, number in (("new", did.rows_new), ("known", did.rows_known), ("rejected", did.rows_rejected)):
                rows.add_metric([name, outcome], number)
            aside.add_metric([name], did.set_aside)
            pushes.add_metric([name], did.pushes)
            seconds.add_metric([name], did.seconds)
            unknown.add_metric([name], did.waiting)
        yield from (unknown, entries, rows, aside, pushes, seconds)


@contextmanager
def serving(host: str, port: int, collector: StreamCollector) -> Iterator[int]:
    """Serve metrics at ``/metrics`` meanwhile; give the port.

    Raises:
        ConfigError: the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"Nothing can listen on {host}:{port} ({error.strerror or error}). Take another --metrics-port."
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
