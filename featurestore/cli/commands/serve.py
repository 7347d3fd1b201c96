"""The ``serve`` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.text import Text

from featurestore.cli.options import Flag, Folder
from featurestore.cli.project import open_store
from featurestore.cli.terminal import called, err
from featurestore.errors import MissingExtraError
from featurestore.settings_loader import load_settings

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The address to listen on (server.host).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; 0 takes a free one (server.port).", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many processes serve (server.workers).", show_default=False)
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate, PEM (server.tls_cert).")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM (server.tls_key).")] = None,
    access_log: Annotated[bool, Flag("--access-log", help="Write a line for each request to standard error.")] = False,
    uds: Annotated[Path | None, typer.Option(metavar="PATH", help="Listen on a Unix socket instead of an address.")] = None,
    project_dir: Folder = None,
) -> None:
    """Serve the project over HTTP until Ctrl-C: look-ups, training frames, pushes, and /docs about them.

    What is applied meanwhile is noticed without a restart. Requests in flight are answered before it ends.
    """
    try:
        # The extra ``server``: the help of this command is for all.
        from featurestore.server.run import serve as run
        from featurestore.server.security.guard import admission
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("featurestore"):
            raise
        raise MissingExtraError("featurestore serve", "server") from error
    named = {
        "host": host, "port": port, "workers": workers,
        "tls_cert": None if tls_cert is None else str(tls_cert.absolute()),
        "tls_key": None if tls_key is None else str(tls_key.absolute()),
        "access_log": access_log or None,
    }  # fmt: skip
    given = {"server": {name: value for name, value in named.items() if value is not None}}
    with open_store(ctx, project_dir) as store:
        root = store.settings.root
        line = _example(store)
        keys = bool(store.keys.list())
    settings = load_settings(root, **given)
    admitted = admission(settings, keys=keys)
    key = ' -H "Authorization: Bearer $FEATURESTORE_KEY"' if admitted == "keys" else ""
    run(root, given, settings, uds=uds, ready=lambda url: _announce(url, root, line, key, _ADMITTED[admitted]))


_ADMITTED = {
    "everybody": 'everybody who reaches it is admitted (access = "open")',
    "this machine": "this machine's own requests are admitted without a key, until one is made (featurestore keys create)",
    "keys": "it admits who has a key or token",
}


def _announce(url: str, root: Path, body: str, key: str, admitted: str) -> None:
    console = err()
    console.print(Text.assemble("featurestore serves at ", (url, "bold")), soft_wrap=True)
    console.print(Text(admitted), soft_wrap=True)
    if url.startswith("unix:"):
        address = f"--unix-socket {url.removeprefix('unix:')} http://localhost"
    else:
        address = url
        console.print(Text.assemble("its documentation is at ", (f"{url}/docs", "bold")), soft_wrap=True)
    if body:
        line = f"curl {address}/v1/online -H 'content-type: application/json'{key} -d '{body}'"
        console.print(Text.assemble("try: ", (line, "cyan")), soft_wrap=True)
    else:
        console.print(Text(f"Nothing is applied yet, so there is nothing to look up. Run: {called(root)} apply"), soft_wrap=True)
    console.print("Ctrl-C ends it", style="dim")


def _example(store: "FeatureStore") -> str:
    """Return the body of a look-up to begin with, of an entity that is invented; empty where nothing is applied."""
    catalog = store.catalog
    names = [*catalog.services, *catalog.views]
    if not names:
        return ""
    return msgspec.json.encode(store.sample_request(names[0])).decode().replace("'", "\\u0027")
