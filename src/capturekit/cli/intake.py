"""``capturekit watch``: pictures that a camera leaves in a folder."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capturekit.cli.options import data_option, log_to_stderr, with_kit
from capturekit.cli.signals import until_signal

if TYPE_CHECKING:
    from capturekit.kit import CaptureKit


@click.command()
@data_option
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--device", metavar="ID", help="Whose pictures they are  [default: each subfolder's name]"
)
@click.option(
    "--done",
    type=click.Choice(["move", "delete", "keep"]),
    default="move",
    show_default=True,
    help="What becomes of a file whose picture was stored; move: to FOLDER/done.",
)
def watch(data_dir: Path | None, folder: Path, device: str | None, done: str) -> None:
    """Store the pictures that are put into FOLDER, until a signal comes.

    Beside a server on the same data folder, or alone. A file is taken when it has stood still
    for 2 seconds; what is no picture goes to FOLDER/rejected, with the reason in a text file.
    """

    async def run(kit: "CaptureKit") -> None:
        from capturekit.intake import Done, WatchedFolder

        if device is not None:
            await kit.store.devices.get(device)
        watched = WatchedFolder(
            folder,
            kit.receive,
            device=device,
            done=Done(done),
            max_bytes=kit.settings.max_upload_bytes,
        )
        click.echo(f"capturekit watches {folder}", err=True)
        await watched.run()

    _take_in(data_dir, run)


def _take_in(data_dir: Path | None, run: "Callable[[CaptureKit], Awaitable[None]]") -> None:
    from capturekit.measuring import flush_for_ever
    from capturekit.settings import Settings

    settings = Settings.load(data_dir=data_dir)
    log_to_stderr(settings)

    async def work(kit: "CaptureKit") -> None:
        async with until_signal() as tasks:
            counting = partial(flush_for_ever, counts_ledger=False)
            tasks.start_soon(counting, kit.telemetry, kit.store.tallies)
            await run(kit)

    with_kit(settings, work)
