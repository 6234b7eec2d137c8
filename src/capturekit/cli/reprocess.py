"""``capturekit reprocess``: let the present pipeline look again at what another one saw."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capturekit.cli.options import data_option, json_option, with_kit
from capturekit.cli.review import CHANGE, change_row
from capturekit.cli.stock.shared import TIME, seconds, show
from capturekit.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import JsonValue

    from capturekit.kit import CaptureKit
    from capturekit.processing import Outlook, Reprocessing
    from capturekit.settings import Settings
    from capturekit.store import Selection, StockChange


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Options for a ``Selection``, which the command gets as ``which``; None when none is given."""

    @click.option("--device", metavar="ID", help="Only pictures of this device.")
    @click.option("--since", type=TIME, metavar="TIME", help="Only those taken then or later, UTC.")
    @click.option("--until", type=TIME, metavar="TIME", help="Only those taken before then, UTC.")
    @click.option(
        "--fingerprint", metavar="HASH", help="Only those that this pipeline speaks for, in full."
    )
    @click.option("--all", "is_all", is_flag=True, help="Every capture that was processed.")
    @functools.wraps(command)
    def with_selection(
        device: str | None,
        since: datetime | None,
        until: datetime | None,
        fingerprint: str | None,
        is_all: bool,
        **own: object,  # what the command itself asks for
    ) -> None:
        from capturekit.store import Selection

        which = Selection(device, seconds(since), seconds(until), fingerprint)
        command(which=which if is_all or which != Selection() else None, **own)

    return with_selection


@click.command()
@click.argument("capture_ids", metavar="[CAPTURE]...", nargs=-1)
@selecting
@click.option(
    "--dry-run", is_flag=True, help="Analyse here and now, and tell what would change in stock."
)
@data_option
@json_option
def reprocess(
    capture_ids: tuple[str, ...],
    which: "Selection | None",
    dry_run: bool,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Let the pipeline of CAPTUREKIT_PIPELINE speak for captures that another one processed.

    Name captures, or choose them; those chosen are one batch that waits behind live pictures,
    and that `capturekit queue batch` watches. Repeat the command if it was interrupted.
    """
    from capturekit.settings import Settings

    if bool(capture_ids) == (which is not None):
        raise click.UsageError("name captures, or choose them by an option, or give --all")
    settings = Settings.load(data_dir=data_dir)
    if dry_run:
        _rehearse(settings, capture_ids, which, as_json=as_json)
        return
    if settings.queue_url.get_secret_value().startswith("memory:"):
        raise ConfigError("a queue at memory:// lives inside its server: ask that one over HTTP")
    if which is None:
        rows = _do_named(settings, capture_ids)
        show(rows, ("capture_id", "task_id", "changes"), as_json=as_json)
    else:
        _tell(with_kit(settings, lambda kit: kit.processing.reprocess_all(which)), as_json=as_json)


def _rehearse(
    settings: "Settings", capture_ids: Sequence[str], which: "Selection | None", *, as_json: bool
) -> None:
    async def work(kit: "CaptureKit") -> "tuple[Sequence[StockChange], Mapping[Outlook, int]]":
        if which is None:
            return await kit.processing.rehearse(capture_ids), {}
        changes, looked_at = await kit.processing.rehearse_all(which)
        return changes, looked_at.counts

    changes, counts = with_kit(settings, work)
    show([dict(change_row(one)) for one in changes], CHANGE, as_json=as_json)
    for outlook, count in counts.items():
        click.echo(f"{outlook}: {count}", err=True)
    click.echo("nothing was changed: this was a dry run", err=True)


def _do_named(settings: "Settings", capture_ids: Sequence[str]) -> "list[Mapping[str, JsonValue]]":
    async def work(kit: "CaptureKit") -> "list[Mapping[str, JsonValue]]":
        rows: list[Mapping[str, JsonValue]] = []
        for capture_id in capture_ids:
            job_id, changes = await kit.reprocess(capture_id)
            rows.append({"capture_id": capture_id, "task_id": job_id, "changes": len(changes)})
        return rows

    return with_kit(settings, work)


def _tell(done: "Reprocessing", *, as_json: bool) -> None:
    counts = {str(outlook): count for outlook, count in done.counts.items()}
    if as_json:
        click.echo(json.dumps({"batch_id": done.batch_id, **counts}))
        return
    for outlook, count in counts.items():
        click.echo(f"{outlook}: {count}")
    if done.batch_id is not None:
        click.echo(f"watch it: capturekit queue batch {done.batch_id}", err=True)
