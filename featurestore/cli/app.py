"""The command-line application: its options, and how an error ends a command."""

import atexit
import gc
from pathlib import Path
from typing import Annotated, Any

import typer

from featurestore.cli.loader import LazyGroup
from featurestore.cli.options import CONTROLS, Flag, Folder, examples
from featurestore.errors import FeatureStoreError
from featurestore.version import VERSION


class Commands(LazyGroup):
    """The commands. An error of the feature store is printed without a traceback, and the exit code is 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except FeatureStoreError as error:
            # Places and addresses are to be clicked and copied, so no line of it is broken.
            typer.secho(f"{typer.style('Error: ', bold=True)}{str(error).translate(CONTROLS)}", fg="red", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(name="featurestore", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 120})  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featurestore {VERSION}")
        raise typer.Exit


@app.callback(epilog=examples("featurestore init shop", "featurestore -C shop apply", "featurestore online --help"))
def featurestore(
    ctx: typer.Context,
    folder: Folder = None,
    version: Annotated[bool, Flag("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """A feature store: define features, materialize them, train on them, look them up.

    Settings come from the project's featurestore.toml, overridden by FEATURESTORE_* variables.
    """
    ctx.obj = folder if folder is not None else Path()


def main() -> None:
    """Run the command line: 0 is success, 1 an error, 2 wrong usage, 130 an interruption."""
    # What a command imports stays until the process ends. To look for garbage in it meanwhile, and again at the end, takes a
    # quarter of the time of a short command. ``load`` switches the collector on again.
    gc.disable()
    atexit.register(gc.freeze)
    app()
