"""``capturekit watch`` and ``poll``: pictures from a folder, or of a camera that is asked."""

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


@click.command()
@data_option
@click.argument("url", required=False)
@click.option("--device", metavar="ID", required=True, help="Whose pictures they are.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.1),
    metavar="S",
    help="Seconds from one picture to the next  [default: CAPTUREKIT_POLL_EVERY_S, else 60]",
)
@click.option("--repeats", is_flag=True, help="Store the same bytes twice in a row, too.")
def poll(
    data_dir: Path | None, url: str | None, device: str, every_s: float | None, repeats: bool
) -> None:
    """Ask the camera at URL for pictures, until a signal comes.

    http:// and https:// answer with a picture; of rtsp://, rtsps:// and stream+http:// a frame
    is taken. Without URL it is the device's in CAPTUREKIT_POLL, where a password belongs: arguments
    show in the list of processes.
    """

    async def run(kit: "CaptureKit") -> None:
        from capturekit.intake.camera import PolledCamera
        from capturekit.intake.together import open_camera
        from capturekit.ratelimit import RateLimiter

        settings = kit.settings
        await kit.store.devices.get(device)
        if url is None and device not in settings.poll:
            raise click.UsageError(f"give a URL, or one for {device!r} in CAPTUREKIT_POLL")
        address = url or settings.poll[device].get_secret_value()
        pause_s = every_s or settings.poll_every_s
        camera = open_camera(address, max_bytes=settings.max_upload_bytes, every_s=pause_s)
        polled = PolledCamera(
            camera,
            kit.receive,
            kit.store.captures,
            device=device,
            every_s=pause_s,
            limiter=RateLimiter(settings.poll_limit, name="poll"),
            keeps_repeats=repeats,
        )
        click.echo(f"capturekit polls {camera.name}", err=True)
        await polled.run()

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
