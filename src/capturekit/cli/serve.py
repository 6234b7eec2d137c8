"""``capturekit serve`` and ``capturekit worker``: the processes that stay."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from capturekit.cli.options import data_option, log_to_stderr

if TYPE_CHECKING:
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings


@click.command()
@data_option
@click.option("--host", help="Address to listen on  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one  [default: 8000]")
def serve(data_dir: Path | None, host: str | None, port: int | None) -> None:
    """Take uploads, process them, answer questions: the whole application in one process."""
    from capturekit.settings import Settings

    settings = Settings.load(data_dir=data_dir, host=host, port=port)
    log_to_stderr(settings.log_level)
    anyio.run(_serve, settings, backend_options={"use_uvloop": True})


async def _serve(settings: "Settings") -> None:
    from capturekit.kit import CaptureKit
    from capturekit.web.server import address_of, listening
    from capturekit.web.server import serve as serve_kit

    host, port = settings.host, settings.port
    # The port first: a token that is shown once is not shown by a start that then fails.
    with listening(host, port) as listener:
        async with CaptureKit(settings) as kit:
            _show_new_token(kit)
            line = f"capturekit listening on {address_of(listener, host)}"
            await serve_kit(kit, listener, on_ready=lambda: click.echo(line, err=True))


def _show_new_token(kit: "CaptureKit") -> None:
    if kit.new_admin_token:
        click.echo(
            "a new admin token was made; it is shown this once and stored hashed\n"
            f"capturekit admin token: {kit.new_admin_token}",
            err=True,
        )


@click.command()
@data_option
@click.option("-c", "--concurrency", type=int, help="Pictures at once  [default: CPU count]")
def worker(data_dir: Path | None, concurrency: int | None) -> None:
    """Process pictures beside a server on the same data folder; any number may run."""
    from capturekit.settings import Settings

    settings = Settings.load(data_dir=data_dir, concurrency=concurrency)
    log_to_stderr(settings.log_level)
    anyio.run(_work, settings, backend_options={"use_uvloop": True})


async def _work(settings: "Settings") -> None:
    from capturekit.kit import CaptureKit, Role

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with CaptureKit(settings, role=Role.WORKER):
            click.echo("capturekit worker started", err=True)
            async for _ in signals:
                break
