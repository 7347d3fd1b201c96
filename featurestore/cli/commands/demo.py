"""The ``demo`` command."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import Folder, project_folder
from featurestore.cli.terminal import out
from featurestore.demo.walkthrough import Tour


def demo(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder to run in; what an earlier demo left there is replaced.")
    ] = Path("flights"),
    project_dir: Folder = None,
) -> None:
    """Run it all on real data: 336,776 flights from New York in 2013, and the weather.

    Prepares the data, applies definitions, materializes, trains, looks features up, and shows that both agree.
    """
    if not Tour(project_folder(ctx, project_dir) / folder, out()).run():
        raise typer.Exit(1)
