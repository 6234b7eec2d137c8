"""``capturekit tokens``: what programs prove themselves with to the API."""

import json
import time
from pathlib import Path

import click

from capturekit.cli.options import data_option, json_option, with_kit

ROLES = ("viewer", "operator", "admin")


@click.group()
def tokens() -> None:
    """Tokens for programs that use the API; those of cameras are with `devices`."""


@tokens.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days that it holds.")
@data_option
@json_option
def add(name: str, role: str, days: float | None, data_dir: Path | None, as_json: bool) -> None:
    """Make a token called NAME and show it, this once."""
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Role, Token

    expires_at = None if days is None else time.time() + days * 86400

    async def work(kit: CaptureKit) -> tuple[Token, str]:
        return await kit.store.tokens.add(name, Role(role), expires_at=expires_at)

    try:
        made, secret = with_kit(Settings.load(data_dir=data_dir), work, may_be_new=True)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(made.as_json() | {"token": secret}))
    else:
        click.echo(f"id:    {made.id}\ntoken: {secret}   (shown this once, stored hashed)")


@tokens.command(name="list")
@data_option
@json_option
def list_tokens(data_dir: Path | None, as_json: bool) -> None:
    """Show all tokens, without their secrets."""
    from rich.console import Console
    from rich.table import Table

    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Token

    async def work(kit: CaptureKit) -> list[Token]:
        return await kit.store.tokens.all()

    found = with_kit(Settings.load(data_dir=data_dir), work)
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found]))
        return
    table = Table("id", "name", "role", "made", "ends")
    for one in found:
        table.add_row(*(str(value or "") for value in one.as_json().values()))
    Console().print(table)


@tokens.command()
@click.argument("name")
@data_option
def revoke(name: str, data_dir: Path | None) -> None:
    """End the token called NAME, or with this id, at once."""
    from capturekit.errors import Unknown
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings

    async def work(kit: CaptureKit) -> None:
        try:
            token_id = (await kit.store.tokens.named(name)).id
        except Unknown:
            token_id = name
        await kit.store.tokens.revoke(token_id)

    with_kit(Settings.load(data_dir=data_dir), work)
    click.echo(f"{name} is revoked", err=True)
