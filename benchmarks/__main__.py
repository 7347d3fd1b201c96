"""Runs the benchmarks and prints one table: ``python -m benchmarks [NAME …] [--full]``; the soak by its name alone."""

import argparse
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from benchmarks import (
    commits,
    computed,
    hostile,
    materialize,
    objects,
    online,
    packed,
    plan_scale,
    push,
    ray,
    schedule,
    serving,
    soak,
    startup,
    streams,
    training,
    upkeep,
    windows,
    writes,
)
from benchmarks.measure import Line

SUITES = {
    "training": training, "online": online, "writes": writes, "materialize": materialize, "windows": windows, "push": push,
    "computed": computed, "serving": serving, "hostile": hostile, "schedule": schedule, "upkeep": upkeep,
    "streams": streams, "startup": startup, "objects": objects, "packed": packed, "commits": commits,
    "ray": ray, "plan-scale": plan_scale,
}  # fmt: skip
SOAK = "soak"


def main() -> int:
    """Runs the suites named, or all; returns 1 where a reach does not hold."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures ours, the floor of the same run, and the ratio.")
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"any of: {', '.join(SUITES)} (all by default); or {SOAK}, which takes ten minutes",
    )
    parser.add_argument("--full", action="store_true", help="also the history of 100M rows (30 GB of disk, some minutes)")
    parser.add_argument("--seconds", type=float, default=soak.SECONDS, help="how long the soak lasts (%(default)g)")
    arguments = parser.parse_args()

    def measured(name: str) -> Iterator[Line]:
        return (
            soak.lines(full=arguments.full, seconds=arguments.seconds) if name == SOAK else SUITES[name].lines(full=arguments.full)
        )

    unknown = set(arguments.suites) - {*SUITES, SOAK}
    if unknown:
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}, {SOAK}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("what", "ours", "floor", "ratio", "reach", "holds", title="ours against the floor of the same run")
    holds = True
    for name in arguments.suites or SUITES:
        for line in measured(name):
            console.print(f"[dim]{line.what}: {line.ratio}[/dim]")
            told = {True: "yes", False: "[red]no[/red]", None: "-"}[line.holds]
            table.add_row(line.what, line.ours, line.floor, line.ratio, line.reach, told)
            holds = holds and line.holds is not False
    console.print(table)
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
