"""The ``versions`` command."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_registry, open_store
from featurestore.cli.terminal import instant, out, print_json, table
from featurestore.materialization.registry_versions import registry_versions


def versions(
    ctx: typer.Context,
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The view.")],
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Show a view's versions: when each was applied, its rows, and since when readers are given it.

    Versions that only differ in words, a schedule or a ttl share their rows: they have one data version.
    """
    with open_registry(ctx, project_dir) as registry:
        versions_listed = registry_versions(registry, view)
    if versions_listed is None:
        with open_store(ctx, project_dir) as store:
            versions_listed = store.versions.list(view)
    if json:
        print_json([asdict(version) for version in versions_listed])
        return
    grid = table("version", "data", "applied", "rows", "served", "", right=("version", "data", "rows"))
    for version in versions_listed:
        marks = [("applied", version.applied), ("pinned", version.pinned), ("cleaned up", version.cleaned)]
        served = "" if version.served_since is None else f"since {instant(version.served_since)[:19]}"
        grid.add_row(
            str(version.version),
            str(version.data_version),
            instant(version.applied_at)[:19],
            "" if version.rows is None else f"{version.rows:,}",
            Text(served, style="green"),
            Text(", ".join(word for word, is_so in marks if is_so), style="dim"),
        )
    out().print(grid)
