"""The commands of whoever runs the service: serve."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from featurestore.cli.options import Folder, open_store
from featurestore.cli.request import selection_of
from featurestore.cli.terminal import called, err
from featurestore.clock import utc_now
from featurestore.config import load_settings
from featurestore.errors import FeatureStoreError, MissingExtraError

if TYPE_CHECKING:
    import polars as pl

    from featurestore.plan.selection import Join, Selection
    from featurestore.store import FeatureStore


def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The address to listen on (server_host).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; 0 takes a free one (server_port).", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many processes serve (server_workers).", show_default=False)
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate, PEM (server_tls_cert).")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM (server_tls_key).")] = None,
    uds: Annotated[Path | None, typer.Option(metavar="PATH", help="Listen on a Unix socket instead of an address.")] = None,
    project_dir: Folder = None,
) -> None:
    """Serves the project over HTTP until Ctrl-C: look-ups, training frames, pushes, and /docs about them.

    What is applied meanwhile is noticed without a restart. Requests in flight are answered before it ends.
    """
    try:
        from featurestore.server.run import serve as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("featurestore"):
            raise
        raise MissingExtraError("featurestore serve", "server") from error
    named = {
        "server_host": host, "server_port": port, "server_workers": workers,
        "server_tls_cert": None if tls_cert is None else str(tls_cert.absolute()),
        "server_tls_key": None if tls_key is None else str(tls_key.absolute()),
    }  # fmt: skip
    given = {name: value for name, value in named.items() if value is not None}
    with open_store(ctx, project_dir) as store:
        root = store.settings.root
        line = _example(store)
    settings = load_settings(root, **given)
    run(root, given, settings, uds=uds, ready=lambda url: _tell(url, root, line))


def _tell(url: str, root: Path, body: str) -> None:
    console = err()
    console.print(Text.assemble("featurestore serves at ", (url, "bold")), soft_wrap=True)
    if url.startswith("unix:"):
        address = f"--unix-socket {url.removeprefix('unix:')} http://localhost"
    else:
        address = url
        console.print(Text.assemble("its documentation is at ", (f"{url}/docs", "bold")), soft_wrap=True)
    if body:
        line = f"curl {address}/v1/online -H 'content-type: application/json' -d '{body}'"
        console.print(Text.assemble("try: ", (line, "cyan")), soft_wrap=True)
    else:
        console.print(Text(f"Nothing is applied yet, so there is nothing to look up. Run: {called(root)} apply"), soft_wrap=True)
    console.print("Ctrl-C ends it", style="dim")


def _example(store: "FeatureStore") -> str:
    """Returns the body of a look-up that answers with features of the project; empty where nothing is applied."""
    catalog = store.catalog
    names = [*catalog.services, *catalog.views]
    if not names:
        return ""
    selection = selection_of(store, [names[0]])
    row: dict[str, Any] = {}
    for join in selection.joins:
        row |= {column: value for column, value in _entity_of(store, join).items() if column not in row}
    row |= {name: value for name, value in _fields_of(selection).items() if name not in row}
    return json.dumps({"features": names[0], "rows": [row]}, default=str).replace("'", "\\u0027")


def _entity_of(store: "FeatureStore", join: "Join") -> dict[str, Any]:
    """Returns the keys of an entity that has features, the one of the newest row."""
    keys = ", ".join(f'"{key}"' for key in join.keys)
    query = f"select {keys} from {join.applied.spec.name} order by event_time desc limit 1"  # noqa: S608 - names of the catalog
    try:
        found = store.sql(query).rows()
    except FeatureStoreError:
        found = []
    values = found[0] if found else [_sample(dtype) for dtype in join.keys.values()]
    return dict(zip(join.on, values, strict=True))


def _fields_of(selection: "Selection") -> dict[str, Any]:
    return {
        each.field.name: each.field.one_of[0] if each.field.one_of else _sample(each.field.dtype)
        for each in selection.computation.fields
        if each.field.required
    }


def _sample(dtype: "pl.DataType") -> Any:
    """Returns some value of a dtype, as JSON says it."""
    if dtype.is_numeric():
        return 1
    if str(dtype) == "Boolean":
        return True
    if dtype.is_nested():
        return []
    if dtype.is_temporal():
        return str(utc_now().date())
    return "a"
