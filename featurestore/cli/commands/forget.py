"""The ``forget`` and ``teardown`` commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from featurestore.cli.arguments import parse_pairs, read_rows
from featurestore.cli.options import Flag, Folder, Json, open_store
from featurestore.cli.terminal import out, print_json, table
from featurestore.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from featurestore.definitions.entity import Entity
    from featurestore.maintenance.delete_project import TeardownReport
    from featurestore.privacy.forget import ForgetReport


def forget(
    ctx: typer.Context,
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="The entity, as its definition names it.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE…", help="Each join key; values separated by commas are several entities."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", metavar="KEY=VALUE", help="A join key, whose value is taken as it is, commas too; once for each key."
        ),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", metavar="FILE", help="A JSON file of the join keys of several: a list of objects.")
    ] = None,
    dry_run: Annotated[bool, Flag("--dry-run", help="Count what there is; erase nothing.")] = False,
    lift: Annotated[bool, Flag("--lift", help="Erase nothing; take the tombstone away, so that the entity may come back.")] = False,
    new_secret: Annotated[
        bool,
        Flag("--new-secret", help="Begin with another secret where that of the tombstones is lost; who was forgotten may return."),
    ] = False,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Erases an entity from everything that the project keeps: history, online store, pushes, rejected rows, feature log.

    A tombstone, a keyed hash, keeps it from coming back with the next run or push. Forgetting again completes what was
    interrupted. Your sources, backups and the online server's own files are not touched.
    """
    if not (keys or key or rows) or (rows and (keys or key)):
        raise typer.BadParameter("Name the entity by KEY=VALUE, by --key KEY=VALUE, or several in a file by --rows.")
    with open_store(ctx, project_dir) as store:
        forms = store.admin.entity_forms(entity)
        given = _rows(forms, rows) if rows else _pairs(forms, keys or [], key or [])
        if not (dry_run or lift):
            _confirm(f"Erase {_counted(len(given), entity)} for good?", yes=yes)
        if lift:
            report = store.admin.unforget(entity, given, dry_run=dry_run)
        else:
            report = store.admin.forget(entity, given, dry_run=dry_run, new_secret=new_secret)
    if json:
        print_json(report.to_dict())
    else:
        show_forgotten(out(), report)


def _pairs(forms: "list[Entity]", keys: list[str], whole: list[str]) -> list[dict[str, Any]]:
    """Returns the rows of keys that are given as texts, in the form of the entity that has keys of these names."""
    names = {each.partition("=")[0] for each in [*keys, *whole]}
    fitting = [form for form in forms if form.keys.keys() == names] or forms[:1]
    for form in fitting:
        try:
            return parse_pairs(keys, form.keys, {}, whole)
        except RequestError:
            if form is fitting[-1]:
                raise
    return []


def _rows(forms: "list[Entity]", path: Path) -> list[dict[str, Any]]:
    """Returns the rows of keys in a file, in the form of the entity that has keys of these names."""
    import json

    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        read = None  # which is told below
    first = read[0] if isinstance(read, list) and read else read
    fitting = [form for form in forms if isinstance(first, dict) and form.keys.keys() == first.keys()] or forms[:1]
    return read_rows(path, fitting[0].keys, {})


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
        report = store.admin.delete_project(dry_run=dry_run)
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
