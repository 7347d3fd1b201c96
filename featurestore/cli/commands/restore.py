"""The ``restore`` command."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json
from featurestore.given_paths import given_place


def restore(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FOLDER", help="What backup was given: a folder, or s3://….")],
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Bring a backup back: the history into the offline store of the settings, and the registry into its file.

    Neither may be there yet. A registry on PostgreSQL is restored with pg_restore, before this.
    """
    with open_store(ctx, project_dir) as store:
        restored = store.admin.restore(given_place(source, Path.cwd(), "backup"))
    if json:
        print_json(restored.to_dict())
    else:
        out().print(str(restored), soft_wrap=True)
