"""The ``backup`` command."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json
from featurestore.given_paths import given_place


def backup(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to copy to: a new or empty folder, or s3://….")],
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Copy the registry and the history to a folder or into object storage, while runs, pushes and readers go on.

    A registry on PostgreSQL is not copied: dump it with pg_dump first. The online store is rebuilt when you restore.
    """
    with open_store(ctx, project_dir) as store:
        copied = store.admin.backup(given_place(target, Path.cwd(), "backup"))
    if json:
        print_json(copied.to_dict())
    else:
        out().print(str(copied), soft_wrap=True)
