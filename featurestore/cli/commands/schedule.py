"""The ``schedule`` command."""

import logging
import os
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import called, err, instant, out, table
from featurestore.clock import utc_now
from featurestore.errors import RegistryError

if TYPE_CHECKING:
    from featurestore.scheduling.scheduler import Scheduler, TaskResult
    from featurestore.store import FeatureStore

_STYLES = {"done": "green", "failed": "bold red", "retrying": "red", "waiting": "yellow", "lost": "yellow"}


def schedule(
    ctx: typer.Context,
    once: Annotated[bool, Flag("--once", help="Run what is due now, wait for it and end; with 1 where something failed.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Run the views that have a schedule, as they come to be due, until Ctrl-C or SIGTERM.

    Start as many as you like, on as many machines: they share the work, each due run happens once, and what one that died was at
    is taken over. What is applied meanwhile is taken up. At the end, running ones may finish (schedule.shutdown_timeout).
    """
    failed = Event()

    def tell(outcome: "TaskResult") -> None:
        if outcome.state in ("failed", "retrying"):
            failed.set()
            if outcome.is_repeated and not json:
                return  # one broken file fails all views on its source, and each of them several times
        _print_line(outcome) if json else out().print(_line(outcome), soft_wrap=True)

    store = open_store(ctx, project_dir)
    scheduler = store.scheduler.create(on_result=tell)
    stop = Event()
    handled = [
        (signal_number, signal.signal(signal_number, lambda *_: _interrupt(stop, once=once)))
        for signal_number in (signal.SIGINT, signal.SIGTERM)
    ]
    try:
        if once:
            scheduler.once()
            unfinished = 0
        else:
            _print_upcoming(store, scheduler, json=json)
            unfinished = store.scheduler.drive(scheduler, stop)
    except KeyboardInterrupt:
        unfinished = scheduler.stop(0 if stop.is_set() else store.settings.schedule.shutdown_timeout.total_seconds())
    finally:
        for number, before in handled:
            signal.signal(number, before)
    if unfinished:
        _leave()
    store.close()
    if once and failed.is_set():
        raise typer.Exit(1)


def _interrupt(stop: Event, *, once: bool) -> None:
    """Ask for the end the first time; the second time nothing is waited for any more."""
    if once or stop.is_set():
        raise KeyboardInterrupt
    stop.set()


def _leave() -> None:
    """End the process at once, whatever its threads are at: it is written down for others to resume (S17)."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _print_upcoming(store: "FeatureStore", scheduler: "Scheduler", *, json: bool) -> None:
    try:
        coming = scheduler.upcoming()
    except RegistryError as error:
        interval = store.settings.schedule.interval.total_seconds()
        err().print(Text(f"{error} It is tried again every {interval:g} s.", style="yellow"), soft_wrap=True)
        return
    if json:
        for task in coming:
            _print_line(task)
        return
    console = out()
    if not coming:
        program = called(store.settings.root)
        console.print(f"No applied view has a schedule yet. Give one its schedule=, and run: {program} apply")
        return
    grid = table("view", "schedule", "next", "state", "after")
    now = utc_now()
    for task in coming:
        when = "now" if task.next_at <= now else instant(task.next_at)[:19]
        grid.add_row(Text(task.name, style="cyan"), task.schedule, when, task.state, ", ".join(task.after))
    console.print(grid)
    console.print(Text("Times are in UTC. Ctrl-C ends it.", style="dim"))


def _line(outcome: "TaskResult") -> Text:
    line = Text.assemble(
        (instant(utc_now())[:19], "dim"), " ", (outcome.name, "cyan"), f" due {instant(outcome.due)} ",
        (outcome.state, _STYLES.get(outcome.state, "")),
    )  # fmt: skip
    done = outcome.summary
    if done is not None:
        rejected = f", {done.rows_rejected:,} rejected" if done.rows_rejected else ""
        line.append(f": {done.rows_read:,} read, {done.rows_written:,} written{rejected}, {done.seconds:.2f} s")
    if outcome.next_at is not None:
        line.append(f", again at {instant(outcome.next_at)[:19]}")
    if outcome.error:
        line.append(f": {outcome.error}")
    return line


def _print_line(value: Any) -> None:
    typer.echo(msgspec.json.encode(value).decode())
    sys.stdout.flush()
