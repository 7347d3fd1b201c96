"""The ``versions`` command."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import instant, out, print_json, table


def versions(
    ctx: typer.Context,
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The view.")],
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Shows a view's versions: when each was applied, its rows, and since when readers are given it.

    Versions that only differ in words, a schedule or a ttl share their rows: they have one data version.
    """
    with open_store(ctx, project_dir) as store:
        found = store.versions.list(view)
    if json:
        print_json([asdict(each) for each in found])
        return
    made = table("version", "data", "applied", "rows", "served", "", right=("version", "data", "rows"))
    for each in found:
        marks = [("applied", each.applied), ("pinned", each.pinned), ("cleaned up", each.cleaned)]
        served = "" if each.served_since is None else f"since {instant(each.served_since)[:19]}"
        made.add_row(
            str(each.version),
            str(each.data_version),
            instant(each.applied_at)[:19],
            "" if each.rows is None else f"{each.rows:,}",
            Text(served, style="green"),
            Text(", ".join(word for word, is_so in marks if is_so), style="dim"),
        )
    out().print(made)
