"""The ``keys`` commands: create, list and revoke API keys."""

from typing import Annotated

import typer
from rich.text import Text

from featurestore.access.grants import Grant
from featurestore.cli.options import Flag, Folder, Json, examples
from featurestore.cli.project import open_store
from featurestore.cli.terminal import instant, out, print_json, table
from featurestore.clock import utc_now

_STATES = {"active": "green", "expired": "yellow", "revoked": "red"}

keys = typer.Typer(
    name="keys", rich_markup_mode=None, no_args_is_help=True, help="Makes, lists and revokes the API keys of a server."
)


@keys.command(
    epilog=examples(
        "featurestore keys create dashboard --role reader --service delay_model --expires 90d",
        "featurestore keys create feed --role writer --view weather --json",
    )
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose the key is, or what it is for.")],
    role: Annotated[list[str], typer.Option(metavar="ROLE", help="reader, writer, admin or monitor; may be given several times.")],
    service: Annotated[
        list[str] | None, typer.Option(metavar="SERVICE", help="Only what this service has; may be given several times.")
    ] = None,
    view: Annotated[
        list[str] | None, typer.Option(metavar="VIEW", help="Only what this view has; may be given several times.")
    ] = None,
    everything: Annotated[bool, Flag("--all", help="The whole project, and what will be in it.")] = False,
    pii: Annotated[bool, Flag("--pii", help="Personal information too, which no role sees without.")] = False,
    expires: Annotated[str | None, typer.Option(metavar="DURATION", help="After how long it no longer counts, as 90d.")] = None,
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Make an API key and print it. It is shown this once; the registry keeps no more than a digest of it."""
    scopes = [*(("service", item) for item in service or []), *(("view", item) for item in view or [])]
    if everything == bool(scopes):
        raise typer.BadParameter("Say where the role counts: --service NAME, --view NAME, or --all by itself.")
    words = [f"{item} {kind}:{name}" for item in role for kind, name in scopes] or [f"{item} project" for item in role]
    grants = [Grant.parse(f"{item}{' pii' if pii else ''}") for item in words]
    with open_store(ctx, project_dir) as store:
        new_key = store.keys.create(name, grants, expires=expires)
    if json:
        print_json({**new_key.key.to_dict(), "key": new_key.secret})
        return
    console = out()
    console.print(Text(new_key.secret, style="bold"), soft_wrap=True)
    until = "" if new_key.key.expires_at is None else f", until {instant(new_key.key.expires_at)} UTC"
    console.print(Text(f"may: {'; '.join(map(str, new_key.key.grants))}{until}"), soft_wrap=True)
    console.print(Text("Keep it now: it is not shown again. Send it as the header Authorization: Bearer …", style="dim"))


@keys.command(name="list", epilog=examples("featurestore keys list", "featurestore keys list --json"))
def list_keys(ctx: typer.Context, json: Json = False, project_dir: Folder = None) -> None:
    """Show all keys, expired and revoked ones too; of each secret no more than its last four letters."""
    now = utc_now()
    with open_store(ctx, project_dir) as store:
        known_keys = store.keys.list()
    if json:
        print_json([{**key.to_dict(), "state": key.state(now)} for key in known_keys])
        return
    grid = table("id", "name", "may", "ends in", "created, UTC", "expires, UTC", "state")
    for key in known_keys:
        state = key.state(now)
        grid.add_row(Text(key.id, style="cyan"), Text(key.name), Text("\n".join(map(str, key.grants))), Text(key.last_four),
                     Text(instant(key.created_at)[:16]), Text(instant(key.expires_at)[:16]),
                     Text(state, style=_STATES[state]))  # fmt: skip
    out().print(grid)


@keys.command(epilog=examples("featurestore keys revoke 0c1d2e3f4a5b6c7d"))
def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id: the middle part of it, and what keys list shows.")],
    json: Json = False,
    project_dir: Folder = None,
) -> None:
    """Take a key out of use for good; every server knows within two seconds."""
    with open_store(ctx, project_dir) as store:
        revoked = store.keys.revoke(key_id)
    if json:
        print_json(revoked.to_dict())
    else:
        out().print(Text(f"Revoked the key {revoked.id} of {revoked.name}."), soft_wrap=True)
