"""The command loader: a list of all commands; the module of a command is imported when it runs.

NOTE: what the commands import takes half a second. ``--help``, ``--version`` and the shell's completion need none of it.
"""

import gc
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from featurestore import hints
from featurestore.cli.options import examples

_DEFINE, _WRITE, _READ = "Define", "Run", "Use"


class Entry(NamedTuple):
    """A command in the list.

    Args:
        module: its module within ``featurestore.cli.commands``, which has a function or an app of the command's name.
        panel: the heading of ``--help`` that it stands under.
        summary: the first line of its own help.
        examples: command lines that its help ends with; none for a group, which has its own.
        function: the function's name, where it is not the command's.
    """

    module: str
    panel: str
    summary: str
    examples: tuple[str, ...]
    function: str = ""


COMMANDS: dict[str, Entry] = {
    "init": Entry(
        "init",
        _DEFINE,
        "Make a small project that works: definitions, some data, settings.",
        ("featurestore init shop", "featurestore init --empty fraud"),
    ),
    "plan": Entry(
        "plan",
        _DEFINE,
        "Show what apply would add, change and remove, and what has to be recomputed.",
        (
            "featurestore plan",
            "featurestore plan --exit-code --json",
        ),
    ),
    "apply": Entry(
        "apply",
        _DEFINE,
        "Make the definitions take effect: all of them or, on any error, none.",
        (
            "featurestore apply",
            "featurestore apply --yes --allow-breaking",
        ),
    ),
    "materialize": Entry(
        "materialize",
        _WRITE,
        "Bring what is new in the sources into the history and the online store.",
        (
            "featurestore materialize",
            "featurestore materialize weather --start 2013-07-01 --end 2013-08-01 --dry-run",
            "featurestore materialize weather --chunk 1d",
        ),
    ),
    "push": Entry(
        "push",
        _WRITE,
        "Put rows of a source straight into both stores, for online reads and training frames to see at once.",
        (
            "featurestore push departures new.parquet",
            "featurestore push departures - < new.jsonl",
        ),
    ),
    "status": Entry(
        "status",
        _WRITE,
        "Show how the views stand: how fresh they are against what they promise, rows, last run and next.",
        (
            "featurestore status",
            "featurestore status --watch",
            "featurestore status plane --rejected",
        ),
    ),
    "list": Entry(
        "list",
        _READ,
        "List what is applied: views, features, services, entities and sources.",
        ("featurestore list", "featurestore list features --search temperature", "featurestore list views --owner ops --json"),
        "list_definitions",
    ),
    "describe": Entry(
        "describe",
        _READ,
        "Describe one definition as it is applied: what it is made of, who owns it, and what uses it.",
        ("featurestore describe weather", "featurestore describe weather.temp", "featurestore describe delay_model --json"),
    ),
    "runs": Entry(
        "runs",
        _WRITE,
        "Show what the jobs did: every run of every view.",
        (),
    ),
    "versions": Entry(
        "versions",
        _WRITE,
        "Show a view's versions: when each was applied, its rows, and since when readers are given it.",
        ("featurestore versions weather",),
    ),
    "rollback": Entry(
        "rollback",
        _WRITE,
        "Give a view's readers an earlier version, at once and for training and online alike.",
        (
            "featurestore rollback weather",
            "featurestore rollback weather --to 3",
            "featurestore rollback weather --undo",
        ),
    ),
    "schedule": Entry(
        "schedule",
        _WRITE,
        "Run the views that have a schedule, as they come to be due, until Ctrl-C or SIGTERM.",
        (
            "featurestore schedule",
            "featurestore schedule --json >> schedule.jsonl",
            "featurestore schedule --once",
        ),
    ),
    "stream": Entry(
        "stream",
        _WRITE,
        "Push what arrives in streams into the views on them, until Ctrl-C or SIGTERM.",
        (
            "featurestore stream",
            "featurestore stream orders --metrics-port 9100",
            "featurestore stream orders --once",
        ),
    ),
    "dead-letters": Entry(
        "dead_letters",
        _WRITE,
        "Lists, requeues and discards the entries of streams that could not be pushed.",
        (),
        "dead_letters",
    ),
    "train": Entry(
        "train",
        _READ,
        "Fetch a training frame: the spine's rows with the features each could have seen at its time.",
        (
            "featurestore train spine.parquet delay_model --time scheduled_at --out train.parquet",
            "featurestore train \"select 'JFK' as origin, timestamp '2013-07-01' as t\" weather --time t",
        ),
    ),
    "online": Entry(
        "online",
        _READ,
        "Look features up: the values that a training frame would have now.",
        (
            "featurestore online delay_model origin=JFK carrier=UA tailnum=N14228 distance=2475",
            "featurestore online weather.temp weather.gusty origin=JFK,LGA --at 2013-12-30T23:45",
        ),
    ),
    "sql": Entry(
        "sql",
        _READ,
        "Query the history with SQL.",
        ('featurestore sql "select origin, max(temp) from weather group by origin"',),
    ),
    "serve": Entry(
        "serve",
        _READ,
        "Serve the project over HTTP until Ctrl-C: look-ups, training frames, pushes, and /docs about them.",
        (
            "featurestore serve",
            "featurestore serve --port 8080 --workers 4",
        ),
    ),
    "keys": Entry(
        "keys",
        _WRITE,
        "Makes, lists and revokes the API keys of a server.",
        (),
    ),
    "forget": Entry(
        "forget",
        _WRITE,
        "Erase an entity from everything that the project keeps: history, online store, pushes, rejected rows, feature log.",
        (
            "featurestore forget user user_id=42 --dry-run",
            "featurestore forget user user_id=42,43 --yes --json",
        ),
    ),
    "unforget": Entry(
        "forget",
        _WRITE,
        "Remove an entity's tombstone, so that it may come back with the next rows.",
        ("featurestore unforget user user_id=42",),
    ),
    "doctor": Entry(
        "doctor",
        _WRITE,
        "Examine settings, servers, clocks, disks, definitions, and registry, history and online store together.",
        (
            "featurestore doctor",
            "featurestore doctor --repair",
            "featurestore doctor --json",
        ),
    ),
    "audit": Entry(
        "audit",
        _WRITE,
        "Show who applied, rolled back, unprotected, forgot, made or revoked keys, and took the project down, and when.",
        (
            "featurestore audit",
            "featurestore audit --limit 100 --json",
        ),
    ),
    "migrate": Entry(
        "migrate",
        _WRITE,
        "Bring the registry's tables to the schema version of this featurestore.",
        (
            "featurestore migrate --dry-run",
            "featurestore migrate --json",
        ),
    ),
    "backup": Entry(
        "backup",
        _WRITE,
        "Copy the registry and the history to a folder or into object storage, while runs, pushes and readers go on.",
        ("featurestore backup /backups/flights-2013-07-01", "featurestore backup s3://lake/backups/flights-2013-07-01"),
    ),
    "restore": Entry(
        "restore",
        _WRITE,
        "Bring a backup back: the history into the offline store of the settings, and the registry into its file.",
        ("featurestore restore /backups/flights-2013-07-01",),
    ),
    "maintain": Entry(
        "maintain",
        _WRITE,
        "Merge small files of the histories, remove files that nothing needs, and clean up versions nobody is given.",
        (
            "featurestore maintain",
            "featurestore maintain --dry-run",
            "featurestore maintain --retention 1d --json",
        ),
    ),
    "delete-project": Entry(
        "delete_project",
        _WRITE,
        "Remove all that the project has in the offline store, the online store and the registry. There is no way back.",
        (
            "featurestore delete-project --dry-run",
            "featurestore delete-project",
        ),
        "delete_project",
    ),
    "demo": Entry(
        "demo",
        _DEFINE,
        "Run it all on real data: 336,776 flights from New York in 2013, and the weather.",
        (
            "featurestore demo",
            "featurestore demo .demo",
        ),
    ),
}
"""All commands by name, in the order of ``--help``."""


@cache
def load(name: str) -> Any:
    """Import a command and return it, as click takes it."""
    entry = COMMANDS[name]
    target = getattr(import_module(f"featurestore.cli.commands.{entry.module}"), entry.function or name)
    if not gc.isenabled():  # ``main`` has switched it off
        gc.freeze()
        gc.enable()
    if isinstance(target, typer.Typer):
        return typer.main.get_group(target)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name, epilog=examples(*entry.examples))(target)
    return typer.main.get_command(alone)


class Unconverted(TyperOption):
    """An option whose value stays a text while the shell completes a word: converting it would load pydantic."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        """Return the option's value."""
        return value if ctx.resilient_parsing else super().process_value(ctx, value)


class LazyGroup(TyperGroup):
    """A group whose commands are loaded when they run; its own help and completion know them from the list alone."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name, help=entry.summary) for name, entry in COMMANDS.items()}
        self._listing = False

    def get_params(self, ctx: Any) -> Any:
        """Return the group's own options."""
        options = super().get_params(ctx)
        for option in options:  # typer makes them, and the one of --help, by itself
            option.__class__ = Unconverted
        return options

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return a command; of a name that is called otherwise here, say how."""
        if args and args[0] not in COMMANDS and args[0] in hints.COMMANDS:
            ctx.fail(f"There is no command {args[0]!r}. Use: featurestore {hints.COMMANDS[args[0]]}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; for the group's own completion what is listed of it."""
        return load(cmd_name) if cmd_name in COMMANDS and not self._listing else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, by subject."""
        for panel in dict.fromkeys(entry.panel for entry in COMMANDS.values()):
            with formatter.section(panel):
                formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items() if entry.panel == panel])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the names that complete a word."""
        self._listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._listing = False
