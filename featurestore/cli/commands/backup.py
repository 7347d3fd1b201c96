"""The ``backup`` command."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import Folder, Json
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json


def backup(
    ctx: typer.Context,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to copy to: a folder that is new or empty.")],
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Copy the registry and the history to a folder, while runs, pushes and readers go on.

    A registry on PostgreSQL is not copied: dump it with pg_dump first. The online store is rebuilt when you restore.
    """
    with open_store(ctx, project_dir) as store:
        copied = store.admin.backup(target.absolute())
    if json:
        print_json(copied.to_dict())
    else:
        out().print(str(copied), soft_wrap=True)
