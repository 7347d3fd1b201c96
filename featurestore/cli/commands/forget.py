"""The ``forget`` and ``unforget`` commands."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.arguments import parse_pairs, read_rows
from featurestore.cli.confirm import confirm
from featurestore.cli.options import Flag, Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json, print_report
from featurestore.errors import RequestError

if TYPE_CHECKING:
    from featurestore.definitions.entity import Entity
    from featurestore.store import FeatureStore


_Entity = Annotated[str, typer.Argument(metavar="ENTITY", help="The entity, as its definition names it.")]
_Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE…", help="Each join key; values separated by commas are several entities."),
]
_Key = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="KEY=VALUE", help="A join key, whose value is taken as it is, commas too; once for each key."),
]
_RowsFile = Annotated[
    Path | None, typer.Option("--rows", metavar="FILE", help="A JSON file of the join keys of several: a list of objects.")
]


def forget(
    ctx: typer.Context,
    entity: _Entity,
    keys: _Keys = None,
    key: _Key = None,
    rows: _RowsFile = None,
    dry_run: Annotated[bool, Flag("--dry-run", help="Count what there is; erase nothing.")] = False,
    new_secret: Annotated[
        bool,
        Flag("--new-secret", help="Begin with another secret where that of the tombstones is lost; who was forgotten may return."),
    ] = False,
    yes: Annotated[bool, Flag("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Erase an entity from everything that the project keeps: history, online store, pushes, rejected rows, feature log.

    A tombstone, a keyed hash, keeps it from coming back with the next run or push. Forgetting again completes what was
    interrupted. Your sources, backups and the online server's own files are not touched.
    """
    with open_store(ctx, project_dir) as store:
        given = _entities(store, entity, keys or [], key or [], rows)
        if not dry_run:
            confirm(f"Erase {_counted(len(given), entity)} for good?", yes=yes)
        report = store.admin.forget(entity, given, dry_run=dry_run, new_secret=new_secret)
    if json:
        print_json(report.to_dict())
    else:
        print_report(out(), report)


def unforget(
    ctx: typer.Context,
    entity: _Entity,
    keys: _Keys = None,
    key: _Key = None,
    rows: _RowsFile = None,
    dry_run: Annotated[bool, Flag("--dry-run", help="Count the tombstones; remove none.")] = False,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Remove an entity's tombstone, so that it may come back with the next rows.

    What was erased stays erased: only rows that a source still has, or that are pushed later, come back.
    """
    with open_store(ctx, project_dir) as store:
        report = store.admin.unforget(entity, _entities(store, entity, keys or [], key or [], rows), dry_run=dry_run)
    if json:
        print_json(report.to_dict())
    else:
        print_report(out(), report)


def _entities(store: "FeatureStore", entity: str, keys: list[str], whole: list[str], rows: Path | None) -> list[dict[str, Any]]:
    """Return the join keys of the entities that a command names."""
    if not (keys or whole or rows) or (rows and (keys or whole)):
        raise typer.BadParameter("Name the entity by KEY=VALUE, by --key KEY=VALUE, or several in a file by --rows.")
    forms = store.admin.entity_forms(entity)
    return _rows(forms, rows) if rows else _pairs(forms, keys, whole)


def _pairs(forms: "list[Entity]", keys: list[str], whole: list[str]) -> list[dict[str, Any]]:
    """Return the rows of keys that are given as texts, in the form of the entity that has keys of these names."""
    names = {pair.partition("=")[0] for pair in [*keys, *whole]}
    fitting = [form for form in forms if form.keys.keys() == names] or forms[:1]
    for form in fitting:
        try:
            return parse_pairs(keys, form.keys, {}, whole)
        except RequestError:
            if form is fitting[-1]:
                raise
    return []


def _rows(forms: "list[Entity]", path: Path) -> list[dict[str, Any]]:
    """Return the rows of keys in a file, in the form of the entity that has keys of these names."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        read = None  # which is told below
    first = read[0] if isinstance(read, list) and read else read
    fitting = [form for form in forms if isinstance(first, dict) and form.keys.keys() == first.keys()] or forms[:1]
    return read_rows(path, fitting[0].keys, {})


def _counted(count: int, entity: str) -> str:
    return f"this {entity}" if count == 1 else f"these {count:,} {entity} entities"
