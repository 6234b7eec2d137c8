"""``capturekit devices``: the cameras that may upload."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from capturekit.cli.options import data_option, json_option, with_kit

if TYPE_CHECKING:
    from capturekit.store import DeviceConfig


@click.group()
def devices() -> None:
    """Cameras that may upload, and their tokens."""


@devices.command()
@click.argument("name")
@click.option("--id", "device_id", help="Id of the device  [default: NAME]")
@click.option(
    "--exhaustive",
    is_flag=True,
    help="Its picture shows the whole location: what it does not show is not there.",
)
@click.option(
    "--qr",
    "qr_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="In place of the token show a code that fetches it within 15 minutes, as a QR code here "
    "or in FILE.svg or FILE.png.",
)
@click.option("--server", metavar="URL", help="Address of the server, to be in the QR code.")
@data_option
@json_option
def add(
    name: str,
    device_id: str | None,
    exhaustive: bool,
    qr_file: str | None,
    server: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Register the camera NAME and show its token, this once."""
    if qr_file is not None:
        new = _Newcomer(name, device_id or name, exhaustive, server)
        _offer(new, qr_file, data_dir, as_json=as_json)
        return
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Device

    async def work(kit: CaptureKit) -> tuple[Device, str]:
        return await kit.store.devices.add(name, id=device_id, is_exhaustive=exhaustive)

    try:
        device, token = with_kit(Settings.load(data_dir=data_dir), work, may_be_new=True)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _show_token(device.id, device.name, token, as_json=as_json)


@devices.command(name="list")
@data_option
@json_option
def list_devices(data_dir: Path | None, as_json: bool) -> None:
    """Show all cameras."""
    from rich.console import Console
    from rich.table import Table

    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Device

    async def work(kit: CaptureKit) -> list[Device]:
        return await kit.store.devices.all()

    found = with_kit(Settings.load(data_dir=data_dir), work)
    if as_json:
        click.echo(json.dumps([device.as_json() for device in found]))
        return
    table = Table("id", "name", "location", "last seen", "battery V", "revoked")
    for device in found:
        row = device.as_json()
        names = ("id", "name", "location", "last_seen_at", "battery_v", "revoked_at")
        table.add_row(*(str(row[name] or "") for name in names))
    Console().print(table)


@devices.command()
@click.argument("device_id", metavar="ID")
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0, 30 * 86400),
    default=0.0,
    metavar="SECONDS",
    help="The old token works for so long still.",
)
@data_option
@json_option
def rotate(device_id: str, grace_s: float, data_dir: Path | None, as_json: bool) -> None:
    """Give the camera ID a new token; the old one stops working, at once unless --grace is given.

    At most two tokens work at a time: with --grace, one that was older still ends.
    """
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Device

    async def work(kit: CaptureKit) -> tuple[Device, str]:
        token = await kit.store.devices.rotate(device_id, grace_s=grace_s)
        return await kit.store.devices.get(device_id), token

    device, token = with_kit(Settings.load(data_dir=data_dir), work)
    _show_token(device.id, device.name, token, as_json=as_json)


@devices.command()
@click.argument("device_id", metavar="ID")
@data_option
def revoke(device_id: str, data_dir: Path | None) -> None:
    """Refuse all uploads of the camera ID from now on."""
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings

    async def work(kit: CaptureKit) -> None:
        await kit.store.devices.revoke(device_id)

    with_kit(Settings.load(data_dir=data_dir), work)
    click.echo(f"{device_id} is revoked", err=True)


@devices.command()
@click.argument("device_id", metavar="ID")
@click.option(
    "settings",
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="every (seconds), phase (seconds), size, q or trigger; without a value, the camera's own.",
)
@data_option
@json_option
def config(device_id: str, settings: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Show or change what the camera ID should do; it hears of it at its next upload."""
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Configuration

    changes = _config_changes(settings)

    async def work(kit: CaptureKit) -> Configuration:
        present = await kit.store.fleet.configuration(device_id)
        if not changes:
            return present
        return await kit.store.fleet.configure(
            device_id, _changed(present.config, changes), if_version=present.version
        )

    found = with_kit(Settings.load(data_dir=data_dir), work)
    if as_json:
        click.echo(json.dumps({"device_id": device_id, **found.as_json()}))
        return
    for word, value in found.for_device(device_id).items():
        click.echo(f"{word}: {value}")


def _config_changes(settings: tuple[str, ...]) -> dict[str, str | None]:
    """New values by member of DeviceConfig; None for what is left to the camera again."""
    from capturekit.store.configuration import WIRE_NAMES

    changes: dict[str, str | None] = {}
    for setting in settings:
        key, is_given, value = setting.partition("=")
        if not is_given or key not in WIRE_NAMES:
            names = ", ".join(WIRE_NAMES)
            raise click.UsageError(f"--set {setting}: give KEY=VALUE, with a KEY of {names}")
        changes[WIRE_NAMES[key]] = value or None
    return changes


def _changed(config: "DeviceConfig", changes: dict[str, str | None]) -> "DeviceConfig":
    from pydantic import ValidationError

    try:
        return config.model_validate(config.model_dump() | changes)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, one['loc']))} {one['msg']}" for one in error.errors())
        raise click.UsageError("; ".join(faults).strip()) from error


class _Newcomer(NamedTuple):
    name: str
    id: str
    is_exhaustive: bool
    server: str | None


def _offer(new: _Newcomer, qr_file: str, data_dir: Path | None, *, as_json: bool) -> None:
    """Make the device, and a code with which it fetches its token."""
    from capturekit import qr
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings
    from capturekit.store import Claim

    async def work(kit: CaptureKit) -> tuple[Claim, str]:
        return await kit.store.claims.offer(
            new.id, name=new.name, is_exhaustive=new.is_exhaustive, must_be_new=True
        )

    try:
        claim, code = with_kit(Settings.load(data_dir=data_dir), work, may_be_new=True)
        url = qr.claim_url(code, new.server)
        if qr_file != "-":
            qr.write(url, Path(qr_file))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(claim.as_json() | {"code": code, "url": url}))
        return
    if qr_file == "-":
        click.echo(qr.as_text(url), nl=False)
    click.echo(f"device: {new.id}\ncode:   {code}   (good once, for 15 minutes)")


def _show_token(id: str, name: str, token: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"id": id, "name": name, "token": token}))
    else:
        click.echo(f"device: {id}\ntoken:  {token}   (shown this once, stored hashed)")
