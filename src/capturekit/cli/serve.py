"""``capturekit serve`` and ``capturekit worker``: the processes that stay."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from capturekit import tracing
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
    log_to_stderr(settings)
    with tracing.start("capturekit-server"):
        anyio.run(_serve, settings, backend_options={"use_uvloop": True})


async def _serve(settings: "Settings") -> None:
    from capturekit.kit import CaptureKit
    from capturekit.web.exposure import require_safe
    from capturekit.web.server import address_of, listening
    from capturekit.web.server import serve as serve_kit

    require_safe(settings)
    host, port = settings.host, settings.port
    # The port first: a token that is shown once is not shown by a start that then fails.
    with listening(host, port) as listener:
        async with CaptureKit(settings) as kit:
            _show_new_token(kit)
            address = address_of(listener, host, is_tls=settings.tls_cert is not None)
            line = f"capturekit listening on {address}"
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
@click.option("--queue-url", metavar="URL", help="Where the jobs are  [default: sql://]")
@click.option("--queues", metavar="NAMES", help="Take jobs from these only, comma-separated.")
@click.option(
    "--executor",
    type=click.Choice(["thread", "process"]),
    help="Process pictures in threads, or in processes that can be killed  [default: thread]",
)
@click.option("--child-max-jobs", type=int, metavar="N", help="Renew a process after N pictures.")
@click.option(
    "--child-max-memory",
    "child_max_mb",
    type=int,
    metavar="MB",
    help="Renew a process that holds more megabytes.",
)
@click.option("--until-empty", is_flag=True, help="Leave when no job is left to run.")
def worker(child_max_mb: int | None, until_empty: bool, **options: object) -> None:
    """Process pictures beside a server; any number may run.

    On the server's data folder, with its queue. SIGTERM or SIGINT lets running jobs finish
    for JOB_GRACE_S seconds, and hands back what still runs then.
    """
    from capturekit.settings import Settings

    max_memory = None if child_max_mb is None else child_max_mb * 2**20
    settings = Settings.load(**options, child_max_memory_bytes=max_memory)
    log_to_stderr(settings)
    with tracing.start("capturekit-worker"):
        anyio.run(_work, settings, until_empty, backend_options={"use_uvloop": True})


async def _work(settings: "Settings", until_empty: bool) -> None:
    from capturekit.kit import CaptureKit, Role

    async with (
        CaptureKit(settings, role=Role.WORKER, is_working=False) as kit,
        anyio.create_task_group() as tasks,
    ):
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            tasks.start_soon(_stop_at_signal, signals, kit)
            click.echo("capturekit worker started", err=True)
            await kit.worker.run(until_empty=until_empty)
            tasks.cancel_scope.cancel()


async def _stop_at_signal(signals: AsyncIterator[signal.Signals], kit: "CaptureKit") -> None:
    async for _ in signals:
        kit.worker.stop()
