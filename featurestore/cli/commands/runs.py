"""The ``runs`` commands."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from featurestore.cli.options import Folder, Json, examples
from featurestore.cli.project import open_registry, open_store
from featurestore.cli.terminal import called, instant, out, print_json, table

if TYPE_CHECKING:
    from featurestore.registry.ledger import Run

STATES = {
    "done": "green",
    "running": "yellow",
    "committed": "yellow",
    "failed": "red",
    "ok": "green",
    "late": "red",
    "retrying": "red",
    "empty": "dim",
}
"""The colour of each state of a run or a view."""
_RUN_STATES = ("running", "committed", "done", "failed")
_NUMBERS = ("read", "written", "rejected", "online")
runs = typer.Typer(
    name="runs", rich_markup_mode=None, help="Show what the jobs did: every run of every view.", invoke_without_command=True
)


@runs.callback(
    epilog=examples("featurestore runs", "featurestore runs --view weather --state failed", "featurestore runs show weather/1/12")
)
def list_runs(
    ctx: typer.Context,
    view: Annotated[str | None, typer.Option(metavar="VIEW", help="The runs of this view only.")] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only those running, committed, done or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to show, the newest first.")] = 20,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Show the latest runs: view, what they read, wrote and rejected, how long they took, and why some failed."""
    if ctx.invoked_subcommand is not None:
        return
    if state is not None and state not in _RUN_STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(_RUN_STATES)}.", param_hint="--state")
    with open_registry(ctx, project_dir) as registry:
        runs_listed = registry.runs(view, limit=limit, state=state)  # type: ignore[arg-type]  # looked at above
        if json:
            print_json([_plain(run) for run in runs_listed])
        elif runs_listed:
            print_runs(out(), runs_listed, named=True)
        else:
            out().print(
                "There are no such runs." if view or state else f"Nothing has run yet: {called(registry.settings.root)} materialize"
            )


@runs.command(name="show", epilog=examples("featurestore runs show weather/1/12", "featurestore runs show weather/1/12 --json"))
def show_run(
    ctx: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="ID", help="The run, as runs lists it: view/data version/number.")],
    limit: Annotated[int, typer.Option(min=1, help="How many rejected rows to show.")] = 10,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Show one run: its span, counts, error, and the rows it rejected with the reasons."""
    from featurestore.cli.frames import rejected_table, rows_of  # which load Polars, for which a list of runs does not wait

    with open_store(ctx, project_dir) as store:
        run = store.runs.get(run_id)
        rejected = store.runs.rejected_rows(run)
        if json:
            print_json({**_plain(run), "rejected": rows_of(rejected)})
            return
        console = out()
        console.print(Text.assemble("run ", (run.id, "bold"), " ", (run.state, STATES[run.state])))
        took = "" if run.seconds is None else f", {run.seconds:.2f} s"
        tries = "" if run.attempts == 1 else f", attempt {run.attempts}"
        console.print(f"began {instant(run.started_at)[:19]} UTC{took}{tries}")
        chunks = run.span["chunks"]
        kind = "pushed segment" if any("pushed" in chunk for chunk in chunks) else "chunk"
        counts = ", ".join(f"{name} {count}" for name, count in zip(_NUMBERS, _counts(run), strict=True))
        console.print(f"{len(chunks)} {kind}{'' if len(chunks) == 1 else 's'}: {counts}")
        for reason, count in run.reasons.items():
            console.print(Text(f"  rejected {count:,}: {reason}", style="yellow"), soft_wrap=True)
        if run.error:
            console.print(Text(run.error, style="red"), soft_wrap=True)
        if not rejected.is_empty():
            console.print(rejected_table(rejected, console.width, limit))


def print_runs(console: Console, runs: "list[Run]", *, named: bool) -> None:
    """Print runs as a table, and their errors below it; ``named`` shows whole ids instead of numbers."""
    grid = table("run", "state", *_NUMBERS, "secs", "began", right=(*_NUMBERS, "secs"))
    for run in runs:
        took = "" if run.seconds is None else f"{run.seconds:.1f}"
        grid.add_row(run.id if named else str(run.seq), Text(run.state, style=STATES[run.state]), *_counts(run), took,
                     f"{instant(run.started_at)[5:16]}")  # fmt: skip
    console.print(grid)
    for run in runs:
        if run.error:
            console.print(Text(f"  run {run.id if named else run.seq}: {run.error}", style="red"), soft_wrap=True)


def _plain(run: "Run") -> dict[str, object]:
    return {"id": run.id, **asdict(run), "seconds": run.seconds}


def _counts(run: "Run") -> list[str]:
    return [f"{count:,}" for count in (run.rows_read, run.rows_written, run.rows_rejected, run.rows_online)]
