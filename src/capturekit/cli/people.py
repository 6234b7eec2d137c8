"""``capturekit people``: who may sign in to the dashboard and the API."""

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capturekit.cli.options import data_option, json_option, with_kit
from capturekit.cli.tokens import ROLES

if TYPE_CHECKING:
    from capturekit.store import People

generate_option = click.option("--generate", is_flag=True, help="Make a password and show it.")


@click.group()
def people() -> None:
    """People who sign in with a name and a password."""


@people.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What they may do.")
@generate_option
@data_option
def add(name: str, role: str, generate: bool, data_dir: Path | None) -> None:
    """Let NAME sign in; asks for a password unless it is piped in or to be made."""
    from capturekit.store import Role

    password = _password(is_made=generate)
    _do(data_dir, lambda people: people.add(name, Role(role), password), may_be_new=True)
    _show(password, is_made=generate)


@people.command(name="list")
@data_option
@json_option
def list_people(data_dir: Path | None, as_json: bool) -> None:
    """Show everyone."""
    from rich.console import Console
    from rich.table import Table

    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Person

    async def work(kit: CaptureKit) -> list[Person]:
        return await kit.store.people.all()

    found = with_kit(Settings.load(data_dir=data_dir), work)
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found]))
        return
    table = Table("name", "role", "added", "disabled")
    for one in found:
        table.add_row(*(str(value or "") for value in one.as_json().values()))
    Console().print(table)


@people.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let NAME sign in again.")
@data_option
def disable(name: str, undo: bool, data_dir: Path | None) -> None:
    """Shut NAME out at once, signed in or not."""
    _do(data_dir, lambda people: people.change(name, is_disabled=not undo))
    click.echo(f"{name} may {'sign in again' if undo else 'no longer sign in'}", err=True)


@people.command()
@click.argument("name")
@generate_option
@data_option
def password(name: str, generate: bool, data_dir: Path | None) -> None:
    """Give NAME another password; all their sessions end."""
    new = _password(is_made=generate)
    _do(data_dir, lambda people: people.set_password(name, new))
    _show(new, is_made=generate)


def _do(
    data_dir: Path | None,
    what: "Callable[[People], Awaitable[object]]",
    *,
    may_be_new: bool = False,
) -> None:
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings

    async def work(kit: CaptureKit) -> None:
        await what(kit.store.people)

    try:
        with_kit(Settings.load(data_dir=data_dir), work, may_be_new=may_be_new)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _password(*, is_made: bool) -> str:
    from capturekit.store import passwords

    if is_made:
        return passwords.generate()
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return typed


def _show(password: str, *, is_made: bool) -> None:
    if is_made:
        click.echo(f"password: {password}   (shown this once, stored hashed)")
