"""The application: which commands there are, and what becomes of errors."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featurestore.cli.commands.audit import audit
from featurestore.cli.commands.backup import backup
from featurestore.cli.commands.define import apply, init, plan
from featurestore.cli.commands.demo import demo
from featurestore.cli.commands.doctor import doctor
from featurestore.cli.commands.forget import forget, teardown
from featurestore.cli.commands.keys import keys
from featurestore.cli.commands.maintain import upkeep
from featurestore.cli.commands.materialize import materialize, push
from featurestore.cli.commands.retrieve import online, sql, train
from featurestore.cli.commands.schedule import schedule
from featurestore.cli.commands.serve import serve
from featurestore.cli.commands.status import runs, status
from featurestore.cli.commands.stream import stream
from featurestore.cli.commands.versions import rollback, versions
from featurestore.cli.options import Flag, Folder, examples
from featurestore.cli.terminal import fail
from featurestore.errors import FeatureStoreError


class Commands(TyperGroup):
    """The commands; an error of the feature store is told without a traceback and ends with 1."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except FeatureStoreError as error:
            fail(str(error))
            raise typer.Exit(1) from None


app = typer.Typer(name="featurestore", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 120})  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"featurestore {version('featurestore')}")
        raise typer.Exit


@app.callback(epilog=examples("featurestore init shop", "featurestore -C shop apply", "featurestore online --help"))
def featurestore(
    ctx: typer.Context,
    folder: Folder = None,
    version: Annotated[bool, Flag("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """A feature store: define features, materialize them, train on them, look them up.

    Settings come from the project's featurestore.toml, overridden by FEATURESTORE_* variables.
    """
    ctx.obj = folder if folder is not None else Path()


_DEFINE, _WRITE, _READ = "Define", "Run", "Use"

app.command(rich_help_panel=_DEFINE, epilog=examples("featurestore init shop"))(init)
app.command(rich_help_panel=_DEFINE, epilog=examples("featurestore plan", "featurestore plan --exit-code --json"))(plan)
app.command(rich_help_panel=_DEFINE, epilog=examples("featurestore apply", "featurestore apply --yes --allow-breaking"))(apply)
app.command(
    rich_help_panel=_WRITE,
    epilog=examples(
        "featurestore materialize",
        "featurestore materialize weather --start 2013-07-01 --end 2013-08-01 --dry-run",
        "featurestore materialize weather --chunk 1d",
    ),
)(materialize)
app.command(
    rich_help_panel=_WRITE,
    epilog=examples("featurestore push departures new.parquet", "featurestore push departures - < new.jsonl"),
)(push)
app.command(
    rich_help_panel=_WRITE,
    epilog=examples("featurestore status", "featurestore status --watch", "featurestore status plane --rejected"),
)(status)
app.add_typer(runs, rich_help_panel=_WRITE)
app.command(rich_help_panel=_WRITE, epilog=examples("featurestore versions weather"))(versions)
app.command(
    rich_help_panel=_WRITE,
    epilog=examples(
        "featurestore rollback weather", "featurestore rollback weather --to 3", "featurestore rollback weather --undo"
    ),
)(rollback)
app.command(
    rich_help_panel=_WRITE,
    epilog=examples("featurestore schedule", "featurestore schedule --json >> schedule.jsonl", "featurestore schedule --once"),
)(schedule)
app.command(rich_help_panel=_WRITE, epilog=examples("featurestore stream", "featurestore stream orders --metrics-port 9100",
                                                    "featurestore stream orders --rejected"))(stream)  # fmt: skip
app.command(
    rich_help_panel=_READ,
    epilog=examples(
        "featurestore train spine.parquet delay_model --time scheduled_at --out train.parquet",
        "featurestore train \"select 'JFK' as origin, timestamp '2013-07-01' as t\" weather --time t",
    ),
)(train)
app.command(
    rich_help_panel=_READ,
    epilog=examples(
        "featurestore online delay_model origin=JFK carrier=UA tailnum=N14228 distance=2475",
        "featurestore online weather.temp weather.gusty origin=JFK,LGA --at 2013-12-30T23:45",
    ),
)(online)
app.command(rich_help_panel=_READ, epilog=examples('featurestore sql "select origin, max(temp) from weather group by origin"'))(sql)
app.command(rich_help_panel=_READ, epilog=examples("featurestore serve", "featurestore serve --port 8080 --workers 4"))(serve)
app.add_typer(keys, rich_help_panel=_WRITE)
app.command(
    rich_help_panel=_WRITE,
    epilog=examples("featurestore forget user user_id=42 --dry-run", "featurestore forget user user_id=42,43 --yes --json"),
)(forget)
app.command(
    rich_help_panel=_WRITE, epilog=examples("featurestore doctor", "featurestore doctor --repair", "featurestore doctor --json")
)(doctor)
app.command(rich_help_panel=_WRITE, epilog=examples("featurestore audit", "featurestore audit --limit 100 --json"))(audit)
app.command(rich_help_panel=_WRITE, epilog=examples("featurestore backup /backups/flights-2013-07-01"))(backup)
app.command(
    rich_help_panel=_WRITE,
    epilog=examples("featurestore upkeep", "featurestore upkeep --dry-run", "featurestore upkeep --retention 1d --json"),
)(upkeep)
app.command(rich_help_panel=_WRITE, epilog=examples("featurestore teardown --dry-run", "featurestore teardown"))(teardown)
app.command(rich_help_panel=_DEFINE, epilog=examples("featurestore demo", "featurestore demo .demo"))(demo)


def main() -> None:
    """Runs the command line: 0 is success, 1 an error, 2 wrong usage, 130 an interruption."""
    app()
