"""``capturekit storage``: what pictures take up, whether all are there, what may go."""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from capturekit.cli.options import data_option, json_option, with_kit

if TYPE_CHECKING:
    from capturekit.kit import CaptureKit

T = TypeVar("T")

dry_option = click.option("--dry-run", "is_dry", is_flag=True, help="Only tell what would go.")


@click.group()
def storage() -> None:
    """The pictures as a whole: their size, whether all are there, what may go."""


@storage.command()
@data_option
@json_option
def stats(data_dir: Path | None, as_json: bool) -> None:
    """Count pictures, thumbnails and the database. Lists all blobs."""

    async def work(kit: "CaptureKit") -> dict[str, Any]:
        return asdict(await kit.storage.measure()) | {"database_bytes": await kit.database_bytes()}

    _show(_on_kit(data_dir, work), as_json=as_json)


@storage.command()
@data_option
@json_option
def verify(data_dir: Path | None, as_json: bool) -> None:
    """Read every blob; exit code 1 if one is missing or corrupt."""
    proof = _on_kit(data_dir, lambda kit: kit.storage.verify())
    _show(asdict(proof), as_json=as_json)
    sys.exit(not proof.is_whole)


@storage.command()
@dry_option
@data_option
@json_option
def collect(is_dry: bool, data_dir: Path | None, as_json: bool) -> None:
    """Delete blobs that nothing needs, an hour old or more; a server does it once a day."""
    done = _on_kit(data_dir, lambda kit: kit.storage.collect(is_dry=is_dry))
    _show(asdict(done), as_json=as_json)


@storage.command()
@click.option("--days", type=click.FloatRange(min=0), help="Remove pictures older than this.")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Remove the oldest down to this.")
@click.option("--state", type=click.Choice(["completed", "failed"]), help="Only of such captures.")
@dry_option
@data_option
@json_option
def retention(
    days: float | None,
    max_bytes: int | None,
    state: str | None,
    is_dry: bool,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Remove old pictures; what was seen on them stays, and so do those that stock rests on.

    Without --days and --max-bytes as the settings RETENTION_DAYS and RETENTION_BYTES say.
    """
    from capturekit.store import CaptureState

    async def work(kit: "CaptureKit") -> dict[str, Any]:
        only = None if state is None else CaptureState(state)
        keeping = kit.keeping(days=days, max_bytes=max_bytes, state=only)
        return asdict(await kit.storage.remove(keeping, is_dry=is_dry))

    _show(_on_kit(data_dir, work), as_json=as_json)


def _on_kit(data_dir: Path | None, work: "Callable[[CaptureKit], Awaitable[T]]") -> T:
    from capturekit.settings import Settings

    async def checked(kit: "CaptureKit") -> T:
        await kit.require_own_blobs()
        return await work(kit)

    return with_kit(Settings.load(data_dir=data_dir), checked)


def _show(told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(told))
        return
    for name, value in told.items():
        click.echo(f"{name.replace('_', ' ')}: {value}")
