"""The ``train`` command."""

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.text import Text

from featurestore.cli.arguments import selection_of
from featurestore.cli.frames import head_table
from featurestore.cli.options import Engine, Flag, Folder, Json
from featurestore.cli.progress import bars
from featurestore.cli.project import open_store
from featurestore.cli.terminal import out, print_json, row_count, shown_path
from featurestore.clock import parse_instant
from featurestore.given_paths import given_place
from featurestore.object_storage import is_object_address


def train(
    ctx: typer.Context,
    spine: Annotated[
        str,
        typer.Argument(metavar="SPINE", help="The rows to train on: a Parquet file, folder or glob, s3:// too, or a SELECT."),
    ],
    features: Annotated[
        list[str], typer.Argument(metavar="FEATURES", help="Services, views and features: delay_model, weather, weather.temp")
    ],
    time: Annotated[str, typer.Option(metavar="COLUMN", help="The spine's time column.")] = "event_time",
    file: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The Parquet file to write, or a folder: out/, s3://…/. Without it, only the head is shown.",
        ),
    ] = None,
    corrected: Annotated[
        bool,
        Flag("--corrected", help="Use rows from their event time on, even before they were available: no online read can."),
    ] = False,
    stored_by: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Use only rows that the history held by this instant, as the frame was then."),
    ] = None,
    engine: Engine = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Fetch a training frame: the spine's rows with the features each could have seen at its time."""
    with open_store(ctx, project_dir, engine=engine) as store:
        with bars(wanted=not json) as progress:
            sink: Any = file  # with one it is a lazy frame, and else one in memory
            instant = None if stored_by is None else parse_instant(stored_by)
            frame = store.training_frame(
                spine, features, time=time, as_known=not corrected, stored_by=instant, sink=sink, progress=progress
            )
        rows, head, names = _shown(frame)
        added = list(selection_of(store, features).names)
        place = None if file is None else given_place(file, store.settings.root, "file")
    if json:
        print_json({"rows": rows, "columns": names, "features": added, "file": place})
        return
    console = out()
    console.print(head_table(head, [name for name in names if name not in added]))
    console.print(f"{row_count(rows)} of {len(names)} columns, {len(added)} of them features", highlight=False)
    if place is not None:
        where = place if is_object_address(place) else shown_path(Path(place))
        console.print(Text.assemble("written to ", (where, "bold")), soft_wrap=True)


def _shown(frame: pl.DataFrame | pl.LazyFrame) -> tuple[int, pl.DataFrame, list[str]]:
    """Return how many rows a frame has, the first ones, and the names of its columns."""
    rows = frame.lazy()
    return rows.select(pl.len()).collect().item(), rows.head(3).collect(), rows.collect_schema().names()
