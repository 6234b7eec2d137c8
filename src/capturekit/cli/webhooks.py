"""``capturekit webhooks``: addresses that events are posted to."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from capturekit.cli.options import data_option, json_option, with_kit

if TYPE_CHECKING:
    from capturekit.kit import CaptureKit
    from capturekit.store import Webhook

T = TypeVar("T")

id_argument = click.argument("webhook_id", metavar="ID")
after_option = click.option(
    "--after", type=click.IntRange(min=0), metavar="SEQ", help="Begin past the event SEQ."
)
since_option = click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]),
    metavar="TIME",
    help="Begin with what happened since TIME, in UTC, such as 2026-01-31T09:00:00.",
)


@click.group()
def webhooks() -> None:
    """Addresses that events are posted to; a server does the posting."""


@webhooks.command()
@click.argument("url")
@click.option("--kind", "kinds", multiple=True, help="Only events of this kind; may be repeated.")
@after_option
@since_option
@data_option
@json_option
def add(
    url: str,
    kinds: tuple[str, ...],
    after: int | None,
    since: datetime | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Post events to URL from now on, and show the secret that signs them, this once."""
    from capturekit.events.rows import webhook_row

    async def work(kit: "CaptureKit") -> "Webhook":
        return await kit.tellers.add_webhook(
            url, kinds=kinds, after=await _start(kit, after, since)
        )

    try:
        webhook = _on_kit(data_dir, work, may_be_new=True)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(webhook_row(webhook) | {"secret": webhook.secret}))
    else:
        click.echo(f"webhook: {webhook.id}\nsecret:  {webhook.secret}   (shown this once)")


@webhooks.command(name="list")
@data_option
@json_option
def list_webhooks(data_dir: Path | None, as_json: bool) -> None:
    """Show all webhooks, and which of them fail."""
    from capturekit.events.rows import webhook_row

    async def work(kit: "CaptureKit") -> "list[Webhook]":
        return await kit.store.webhooks.all()

    rows = [webhook_row(one) for one in _on_kit(data_dir, work)]
    _show(rows, ("id", "url", "cursor", "failures", "next_try_at", "disabled_at"), as_json=as_json)


@webhooks.command()
@id_argument
@data_option
def remove(webhook_id: str, data_dir: Path | None) -> None:
    """Post nothing more to the webhook ID, and forget it."""
    _on_kit(data_dir, lambda kit: kit.store.webhooks.remove(webhook_id))
    click.echo(f"{webhook_id} is removed", err=True)


@webhooks.command()
@id_argument
@data_option
def enable(webhook_id: str, data_dir: Path | None) -> None:
    """Post to the webhook ID again at once, beginning with what it missed."""
    _on_kit(data_dir, lambda kit: kit.store.webhooks.enable(webhook_id))
    click.echo(f"{webhook_id} is enabled", err=True)


@webhooks.command()
@id_argument
@after_option
@since_option
@data_option
def replay(
    webhook_id: str, after: int | None, since: datetime | None, data_dir: Path | None
) -> None:
    """Post events to the webhook ID once more, from SEQ or TIME on."""
    if (after is None) == (since is None):
        raise click.UsageError("give --after or --since")

    async def work(kit: "CaptureKit") -> "Webhook":
        start = await _start(kit, after, since)
        return await kit.store.webhooks.replay(webhook_id, after=start or 0)

    cursor = _on_kit(data_dir, work).cursor
    click.echo(f"{webhook_id} is told again what came after event {cursor}", err=True)


@webhooks.command()
@id_argument
@data_option
@json_option
def attempts(webhook_id: str, data_dir: Path | None, as_json: bool) -> None:
    """Show the newest tries to deliver to the webhook ID, at most 100."""
    from capturekit.events.rows import attempt_row

    found = _on_kit(data_dir, lambda kit: kit.store.webhooks.attempts(webhook_id))
    rows = [attempt_row(one) for one in found]
    _show(rows, ("tried_at", "seq", "status", "took_ms", "error"), as_json=as_json)


@webhooks.command()
@id_argument
@data_option
def test(webhook_id: str, data_dir: Path | None) -> None:
    """Post an event webhook.test to the webhook ID now; exit code 1 if it was not taken."""
    answer = _on_kit(data_dir, lambda kit: kit.tellers.test_webhook(webhook_id))
    if answer.error is not None:
        raise click.ClickException(answer.error)
    click.echo(f"answered {answer.status} after {answer.took_ms:.0f} ms", err=True)


def _on_kit(
    data_dir: Path | None,
    work: "Callable[[CaptureKit], Awaitable[T]]",
    *,
    may_be_new: bool = False,
) -> T:
    from capturekit.settings import Settings

    return with_kit(Settings.load(data_dir=data_dir), work, may_be_new=may_be_new)


async def _start(kit: "CaptureKit", after: int | None, since: datetime | None) -> int | None:
    if after is not None and since is not None:
        raise ValueError("give --after or --since, not both")
    if since is None:
        return after
    return await kit.store.outbox.before(since.replace(tzinfo=UTC).timestamp())


def _show(rows: Sequence[Mapping[str, object]], names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(list(rows)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name.removesuffix("_at").replace("_", " ") for name in names))
    for row in rows:
        table.add_row(*(str("" if row[name] is None else row[name]) for name in names))
    Console().print(table)
