"""The ``stream`` command."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Lock
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import called, err, instant, out
from featurestore.clock import utc_now
from featurestore.definitions.stream_source import StreamSource
from featurestore.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from featurestore.store import FeatureStore
    from featurestore.streams.counts import StreamCounts

_EVERY = 10.0


def stream(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCES", help="The streams; without any, all that are applied.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="How many entries are pushed at once, at the most.")] = 5_000,
    idle: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="After how long what a worker has left goes to another.")
    ] = 30.0,
    once: Annotated[bool, Flag("--once", help="Push what is in the streams and end.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Serve metrics for Prometheus there; 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address of the metrics.")] = "127.0.0.1",
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Push what arrives in streams into the views on them, until Ctrl-C or SIGTERM.

    Start as many as you like: they share the entries. An entry is acknowledged once both stores have it, and each event counts
    once however often it is delivered. One that makes no row becomes a dead letter, with the reason, and the others go on:
    see featurestore dead-letters.
    """
    with open_store(ctx, project_dir) as store:
        _run(store, sources or None, batch, idle, metrics_host, metrics_port, once=once, json=json)


def _run(
    store: "FeatureStore", names: list[str] | None, batch: int, idle: float, host: str, port: int | None, *, once: bool, json: bool
) -> None:
    known = [stream_source for stream_source in store.catalog.sources.values() if isinstance(stream_source, StreamSource)]
    if not known:
        raise ConfigError(
            f"No stream is applied. Define a StreamSource and a view on it, and run: {called(store.settings.root)} apply"
        )
    printer = _ProgressPrinter(json=json)
    with _metrics(store, host, port), _until_signalled() as stop:
        if not json:
            for stream_source in known:
                if names is None or stream_source.name in names:
                    views = [view.spec.name for view in store.catalog.views.values() if view.spec.source.name == stream_source.name]
                    line = Text.assemble(
                        (stream_source.name, "cyan"),
                        f": {stream_source.topic} at {stream_source.url} → {', '.join(views) or 'no view'}",
                    )
                    out().print(line, soft_wrap=True)
            out().print("Ctrl-C ends it", style="dim")
        done = store.streams.run(names, batch=batch, idle_seconds=idle, once=once, stop=stop, on_change=printer.tell)
    for counts in done:
        printer.print(counts)


@contextmanager
def _until_signalled() -> Iterator[Event]:
    """Give what SIGTERM and Ctrl-C set; a second one ends the process at once."""
    stop = Event()
    before = {}

    def asked(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, asked)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _metrics(store: "FeatureStore", host: str, port: int | None) -> Iterator[None]:
    if port is None:
        yield
        return
    try:
        # The extra ``server``, which streams need for their metrics alone.
        from featurestore.server.telemetry.stream_metrics import StreamCollector, serving
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("featurestore"):
            raise
        raise MissingExtraError("--metrics-port", "server") from error
    streams = store.streams
    with serving(host, port, StreamCollector(streams.status, streams.counts)) as bound:
        err().print(Text(f"metrics are at http://{host}:{bound}/metrics"))
        yield


class _ProgressPrinter:
    """Print a line of each stream now and then, and at once where it begins or ends to wait."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._lock = Lock()
        self._last: dict[str, tuple[float, StreamCounts]] = {}

    def tell(self, counts: "StreamCounts") -> None:
        """Receive counts that have changed."""
        now = time.perf_counter()
        with self._lock:
            at, last = self._last.get(counts.source, (now - _EVERY, None))
            if now - at >= _EVERY or (last is not None and last.error != counts.error) or (last is None and counts.error):
                self._last[counts.source] = now, replace(counts)
                self.print(counts)

    def print(self, counts: "StreamCounts") -> None:
        """Print counts."""
        if self._json:
            typer.echo(msgspec.json.encode({"time": utc_now(), **msgspec.to_builtins(counts)}).decode())
            return
        summary = f"{counts.entries:,} entries, {counts.rows_new:,} rows new"
        for number, word in ((counts.rows_known, "known"), (counts.rows_rejected, "rejected")):
            summary += f", {number:,} {word}" if number else ""
        line = Text.assemble((instant(utc_now())[:19], "dim"), " ", (counts.source, "cyan"), f" {summary}")
        if counts.set_aside:
            line.append(f", {counts.set_aside:,} set aside", "yellow")
        for number, word in ((counts.waiting, "not known yet"), (counts.lost, "lost")):
            if number:
                line.append(f", {number:,} {word}", "yellow")
        if counts.error:
            line.append(f". It waits: {counts.error}", "red")
        out().print(line, soft_wrap=True)
