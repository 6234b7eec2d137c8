"""``capturekit limits``: what callers of a running server have spent of their limits."""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from capturekit.cli.options import json_option
from capturekit.errors import CaptureKitError

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 10.0


class ServerRefused(CaptureKitError):
    """The server cannot be reached, or does not do what was asked."""


@click.group(invoke_without_command=True)
@click.option("--url", help="Address of the server  [default: from HOST and PORT]")
@click.option("--token", help="Admin token  [default: CAPTUREKIT_ADMIN_TOKEN]")
@json_option
@click.pass_context
def limits(ctx: click.Context, url: str | None, token: str | None, as_json: bool) -> None:
    """Show the limits of a running server: their scale, and who spent what of them."""
    client = _client(url, token)
    if ctx.invoked_subcommand is not None:
        ctx.obj = client
        return
    with client:
        told = _answer(client, "GET", "/v1/admin/limits").json()
    if as_json:
        click.echo(json.dumps(told))
    else:
        _print(told)


@limits.command()
@click.argument("name")
@click.argument("key")
@click.pass_obj
def reset(client: "httpx2.Client", name: str, key: str) -> None:
    """Forget what KEY spent of the limit NAME."""
    with client:
        _answer(client, "DELETE", f"/v1/admin/limits/{quote(name, safe='')}/{quote(key, safe='')}")
    click.echo(f"{key} has all of {name} again", err=True)


def _client(url: str | None, token: str | None) -> "httpx2.Client":
    try:
        import httpx2
    except ImportError as error:
        from capturekit.errors import MissingExtra

        raise MissingExtra("capturekit limits", "server") from error
    from capturekit.settings import Settings

    settings = Settings.load()
    secret = token or (settings.admin_token.get_secret_value() if settings.admin_token else "")
    if not secret:
        raise click.UsageError("give the admin token with --token or CAPTUREKIT_ADMIN_TOKEN")
    return httpx2.Client(
        base_url=url or f"http://{settings.host}:{settings.port}",
        headers={"Authorization": f"Bearer {secret}"},
        timeout=TIMEOUT_S,
    )


def _answer(client: "httpx2.Client", method: str, path: str) -> "httpx2.Response":
    import httpx2

    try:
        response = client.request(method, path)
    except httpx2.HTTPError as error:
        raise ServerRefused(
            f"no server answers at {client.base_url}: {error}; name it with --url"
        ) from error
    if response.is_success:
        return response
    raise ServerRefused(f"the server says {response.status_code}: {_detail(response)}")


def _detail(response: "httpx2.Response") -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase


def _print(told: dict[str, Any]) -> None:
    """Any: JSON of the server."""
    from rich.console import Console
    from rich.table import Column, Table

    names = ("limit", "rules", "scale", "key", "spent", "of", "resets in s")
    # Folded, not cut: a key that is shown must be one that can be reset.
    table = Table(*(Column(name, overflow="fold") for name in names))
    for limit in told["limits"]:
        head = (limit["name"], limit["rules"], f"{limit['scale']:.2f}")
        if not limit["usage"]:
            table.add_row(*head, "", "", "", "")
        for one in limit["usage"]:
            spent = max(0, one["limit"] - one["remaining"])
            table.add_row(*head, one["key"], str(spent), str(one["limit"]), f"{one['reset_s']:.0f}")
    Console().print(table)
