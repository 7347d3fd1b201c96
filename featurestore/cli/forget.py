"""The commands that take things away: forget, teardown."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder, Json, open_store
from featurestore.cli.request import parse_pairs
from featurestore.cli.terminal import out, print_json, table

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.jobs.forget import ForgetReport
    from featurestore.jobs.teardown import TeardownReport


def forget(
    ctx: typer.Context,
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="The entity, as its definition names it.")],
    keys: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE…", help="Each join key; values separated by commas are several entities.")
    ],
    dry_run: Annotated[bool, Flag("--dry-run", help="Count what there is; erase nothing.")] = False,
    lift: Annotated[bool, Flag("--lift", help="Erase nothing; take the tombstone away, so that the entity may come back.")] = False,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Erases an entity from everything that the project keeps: history, online store, pushes, rejected rows, feature log.

    A tombstone, a keyed hash, keeps it from coming back with the next run or push. Forgetting again completes what was
    interrupted. Your sources, backups and the online server's own files are not touched.
    """
    if lift and dry_run:
        raise typer.BadParameter("--lift erases nothing, so it goes without --dry-run.")
    with open_store(ctx, project_dir) as store:
        rows = parse_pairs(keys, store.entity(entity).keys, {})
        if not (dry_run or lift):
            _confirm(f"Erase {_counted(len(rows), entity)} for good?", yes=yes)
        report = store.forget(entity, rows, dry_run=dry_run, lift=lift)
    if json:
        print_json(report.to_dict())
    else:
        show_forgotten(out(), report)


def show_forgotten(console: "Console", report: "ForgetReport") -> None:
    """Prints what was erased where."""
    if len(report):
        made = table("found in" if report.dry_run else "erased from", "of", "rows", right=("rows",))
        for each in report:
            made.add_row(Text(each.place, style="cyan"), Text(each.name), f"{each.rows:,}")
        console.print(made)
    console.print(report.summary, soft_wrap=True)


def teardown(
    ctx: typer.Context,
    dry_run: Annotated[bool, Flag("--dry-run", help="Count what there is; remove nothing.")] = False,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask for the project's name.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Removes all that the project has in the offline store, the online store and the registry. There is no way back.

    Definitions and settings stay, and so do other projects on the same servers. Stop what serves, runs and pushes first.
    """
    with open_store(ctx, project_dir) as store:
        if not dry_run and not yes:
            _check_terminal()
            named = typer.prompt(f"This removes all that the project {store.settings.project!r} keeps. Type its name to go on")
            if named != store.settings.project:
                raise typer.Abort
        report = store.teardown(dry_run=dry_run)
    if json:
        print_json(report.to_dict())
    else:
        show_removed(out(), report)


def show_removed(console: "Console", report: "TeardownReport") -> None:
    """Prints what was removed."""
    made = table("found in" if report.dry_run else "removed from", "what", "count", right=("count",))
    for each in report:
        made.add_row(Text(each.place, style="cyan"), Text(each.name), "?" if each.count is None else f"{each.count:,}")
    console.print(made)
    console.print(report.summary, soft_wrap=True)


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        _check_terminal()
        typer.confirm(question, abort=True)


def _check_terminal() -> None:
    import sys

    if not sys.stdin.isatty():
        raise typer.BadParameter("Nobody is there to be asked: say --yes, or look first with --dry-run.")


def _counted(count: int, entity: str) -> str:
    return f"this {entity}" if count == 1 else f"these {count:,} {entity} entities"
