"""The ``dead-letters`` commands."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.confirm import confirm
from featurestore.cli.options import Flag, Folder, Json, examples
from featurestore.cli.project import open_store
from featurestore.cli.terminal import cell, instant, out, print_json, table

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_Streams = Annotated[list[str] | None, typer.Argument(metavar="STREAMS", help="The streams; without any, all that are applied.")]
_Ids = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="Only this entry of one stream; may be given several times."),
]

dead_letters = typer.Typer(
    name="dead-letters",
    rich_markup_mode=None,
    help="Lists, requeues and discards the entries of streams that could not be pushed.",
    no_args_is_help=True,
)


@dead_letters.command(
    name="list", epilog=examples("featurestore dead-letters list", "featurestore dead-letters list orders --json")
)
def list_dead_letters(ctx: typer.Context, streams: _Streams = None, json: Json = False, project_dir: Folder = None) -> None:
    """List the entries that could not be pushed, with the reasons."""
    with open_store(ctx, project_dir) as store:
        letters = {name: store.streams.dead_letters.list(name) for name in _names(store, streams)}
    if json:
        print_json(letters)
        return
    grid = table("stream", "entry", "arrived", "reason", "holds")
    for name, entries in letters.items():
        for entry in entries:
            holds = " ".join(f"{field}={value}" for field, value in entry.fields.items())
            grid.add_row(Text(name, style="cyan"), entry.id, instant(entry.time)[:19], Text(entry.reason), cell(holds, 80))
    if grid.row_count:
        out().print(grid)
    else:
        out().print("There are no dead letters.")


@dead_letters.command(
    epilog=examples("featurestore dead-letters requeue orders", "featurestore dead-letters requeue orders --id 1720-0")
)
def requeue(ctx: typer.Context, streams: _Streams = None, ids: _Ids = None, json: Json = False, project_dir: Folder = None) -> None:
    """Put dead letters back into their streams, once their cause is fixed. They get new ids there."""
    with open_store(ctx, project_dir) as store:
        counts = {name: store.streams.dead_letters.requeue(name, ids) for name in _names(store, streams, ids)}
    _print_counts(counts, "requeued", json=json)


@dead_letters.command(
    epilog=examples("featurestore dead-letters discard orders --id 1720-0", "featurestore dead-letters discard -y")
)
def discard(
    ctx: typer.Context,
    streams: _Streams = None,
    ids: _Ids = None,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Delete dead letters for good."""
    with open_store(ctx, project_dir) as store:
        names = _names(store, streams, ids)
        confirm(f"Delete the dead letters of {', '.join(names) or 'no stream'} for good?", yes=yes)
        counts = {name: store.streams.dead_letters.discard(name, ids) for name in names}
    _print_counts(counts, "deleted", json=json)


def _names(store: "FeatureStore", streams: list[str] | None, ids: list[str] | None = None) -> list[str]:
    if ids and len(streams or ()) != 1:
        raise typer.BadParameter("Name the one stream that these entries are in.", param_hint="--id")
    return streams or [status.source for status in store.streams.status()]


def _print_counts(counts: dict[str, int], verb: str, *, json: bool) -> None:
    if json:
        print_json(counts)
        return
    for name, count in counts.items():
        out().print(Text.assemble((name, "cyan"), f": {count:,} {'entry' if count == 1 else 'entries'} {verb}"))
