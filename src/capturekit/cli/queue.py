"""``capturekit queue``: what waits and runs, and the levers on it, on any backend."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio
import click

from capturekit.cli.options import DATA_HELP, json_option, with_kit
from capturekit.errors import CaptureKitError
from capturekit.queue.base import (
    BatchStatus,
    CancelOutcome,
    JobState,
    QueueBackend,
    QueueStats,
    WorkerInfo,
)

T = TypeVar("T")

POLL_S: Final = 0.2
_GIVEN: Final = "capturekit.cli.queue"


class NotDrained(CaptureKitError):
    """Jobs still ran when the time was over."""

    def __init__(self, running: int, timeout_s: float) -> None:
        super().__init__(
            f"{running} jobs still run after {timeout_s:g} s; the queue stays paused, "
            "`capturekit queue resume` lets it go on"
        )
        self.running = running


@dataclass(frozen=True)
class _Queue:
    """The queue that the options name, opened for one question."""

    given: Mapping[str, object]

    def ask(self, work: Callable[[QueueBackend], Awaitable[T]]) -> T:
        from capturekit.queue.urls import open_queue
        from capturekit.settings import Settings

        settings = Settings.load(**self.given)
        url = settings.queue_url.get_secret_value()
        if url == "sql://":
            return with_kit(settings, lambda kit: work(kit.queue))
        if url.startswith("memory:"):
            raise CaptureKitError("a queue at memory:// lives inside its server: ask that one")

        async def run() -> T:
            async with open_queue(url) as queue:
                return await work(queue)

        return anyio.run(run)


def _remember(ctx: click.Context, option: click.Parameter, value: object) -> None:
    if value is not None and option.name:
        ctx.meta.setdefault(_GIVEN, {})[option.name] = value


def _which_queue() -> list[click.Parameter]:
    """The options that name the queue, before the subcommand's name or after it."""
    return [
        click.Option(
            ["--data", "data_dir"],
            type=click.Path(path_type=Path),
            help=DATA_HELP,
            expose_value=False,
            callback=_remember,
        ),
        click.Option(
            ["--queue-url"],
            metavar="URL",
            help="Where the jobs are  [default: sql://]",
            expose_value=False,
            callback=_remember,
        ),
    ]


class _Group(click.Group):
    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.params += _which_queue()
        super().add_command(cmd, name)


@click.group(cls=_Group, params=_which_queue())
@click.pass_context
def queue(ctx: click.Context) -> None:
    """Look at the queue and steer it: pause, resume, drain, retry, cancel."""
    ctx.obj = _Queue(ctx.meta.setdefault(_GIVEN, {}))


@queue.command()
@json_option
@click.pass_obj
def info(queue: _Queue, as_json: bool) -> None:
    """Show what waits and runs, how fast it goes, and who works."""

    async def ask(backend: QueueBackend) -> tuple[QueueStats, list[WorkerInfo]]:
        return await backend.stats(), await backend.workers()

    stats, workers = queue.ask(ask)
    if as_json:
        told = stats.model_dump(mode="json")
        click.echo(json.dumps(told | {"workers": [one.model_dump(mode="json") for one in workers]}))
    else:
        _print(stats, workers)


@queue.command()
@click.argument("name", required=False)
@click.pass_obj
def pause(queue: _Queue, name: str | None) -> None:
    """Hand out no more jobs, or none of the queue NAME; those that run go on."""
    queue.ask(lambda backend: backend.pause(name))
    click.echo(f"{name or 'the queue'} is paused", err=True)


@queue.command()
@click.argument("name", required=False)
@click.pass_obj
def resume(queue: _Queue, name: str | None) -> None:
    """Hand out jobs again, of the queue NAME or of all."""
    queue.ask(lambda backend: backend.resume(name))
    click.echo(f"{name or 'the queue'} goes on", err=True)


@queue.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=300.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for.",
)
@click.pass_obj
def drain(queue: _Queue, timeout_s: float) -> None:
    """Pause the queue and wait until nothing runs; exit 1 when that takes too long."""

    async def work(backend: QueueBackend) -> int:
        await backend.pause()
        give_up_at = time.monotonic() + timeout_s
        while running := (await backend.stats()).depth[JobState.RUNNING]:
            if time.monotonic() >= give_up_at:
                return running
            await anyio.sleep(POLL_S)
        return 0

    if running := queue.ask(work):
        raise NotDrained(running, timeout_s)
    click.echo("nothing runs, and the queue is paused", err=True)


@queue.command("retry-failed")
@click.option("--queue", "name", metavar="NAME", help="Only jobs of this queue.")
@click.option("--batch", metavar="ID", help="Only jobs of this batch.")
@click.pass_obj
def retry_failed(queue: _Queue, name: str | None, batch: str | None) -> None:
    """Queue failed jobs again, each with all its attempts."""
    count = queue.ask(lambda backend: backend.retry_failed(queue=name, batch=batch))
    click.echo(f"{count} jobs queued again")


@queue.command()
@click.argument("job_id", required=False)
@click.option("--batch", metavar="ID", help="Cancel every job of this batch.")
@click.pass_obj
def cancel(queue: _Queue, job_id: str | None, batch: str | None) -> None:
    """Stop the job JOB_ID, or a batch, and print what really happened.

    cancelled: it never ran and will not. cancelling: it runs, and its worker is told.
    already_finished: nothing changed.
    """
    if (job_id is None) == (batch is None):
        raise click.UsageError("give the id of a job, or --batch")
    if batch is not None:
        for outcome, count in queue.ask(partial(_cancel_batch, batch)).items():
            click.echo(f"{count} {outcome}")
    else:
        click.echo(queue.ask(partial(_cancel, job_id or "")))


async def _cancel(job_id: str, backend: QueueBackend) -> CancelOutcome:
    return await backend.cancel(job_id)


async def _cancel_batch(batch: str, backend: QueueBackend) -> dict[CancelOutcome, int]:
    return await backend.cancel_batch(batch)


@queue.command()
@click.argument("batch")
@json_option
@click.pass_obj
def batch(queue: _Queue, batch: str, as_json: bool) -> None:
    """Show how far the batch BATCH is."""

    async def ask(backend: QueueBackend) -> BatchStatus:
        return await backend.batch(batch)

    status = queue.ask(ask)
    if as_json:
        numbers = {"total": status.total, "ended": status.ended, "progress": status.progress}
        click.echo(json.dumps(status.model_dump(mode="json") | numbers))
    else:
        states = ", ".join(f"{count} {state}" for state, count in status.depth.items() if count)
        click.echo(f"{status.progress:.0%} of {status.total} jobs: {states}")


@queue.command()
@click.argument("worker")
@click.argument("concurrency", type=int)
@click.pass_obj
def resize(queue: _Queue, worker: str, concurrency: int) -> None:
    """Let WORKER run CONCURRENCY jobs at once, from now until it ends."""
    try:
        queue.ask(lambda backend: backend.resize(worker, concurrency))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{worker} is told to run {concurrency} jobs at once", err=True)


@queue.command()
@click.option(
    "--older-than",
    "older_than_s",
    type=float,
    default=0.0,
    show_default=True,
    metavar="S",
    help="Seconds since they ended.",
)
@click.option("--keep", type=int, metavar="N", help="Also keep only the N that ended last.")
@click.pass_obj
def prune(queue: _Queue, older_than_s: float, keep: int | None) -> None:
    """Forget jobs that ended a while ago."""
    count = queue.ask(lambda backend: backend.prune(older_than_s=older_than_s, keep=keep))
    click.echo(f"{count} jobs forgotten")


def _print(stats: QueueStats, workers: list[WorkerInfo]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    counts = (Column(state, justify="right", overflow="fold") for state in JobState)
    jobs = Table(Column("queue", no_wrap=True), *counts)
    for name, depth in sorted(stats.by_queue.items()):
        label = f"{name} (paused)" if name in stats.paused else name
        jobs.add_row(label, *(str(depth.get(state, 0)) for state in JobState))
    jobs.add_row("all", *(str(stats.depth[state]) for state in JobState), style="bold")
    console.print(jobs)
    if stats.is_paused:
        console.print("the queue is paused")
    if stats.oldest_age_s is not None:
        console.print(f"the oldest waits for {stats.oldest_age_s:.1f} s")
    for rate in stats.rates:
        console.print(
            f"{rate.window_s / 60:>3.0f} min: {rate.in_per_minute:.1f} came and "
            f"{rate.out_per_minute:.1f} ended a minute"
        )
    # Folded, not cut: an id that is shown must be one that can be named.
    names = ("worker", "host", "pid", "at once", "heard of", "runs")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for one in workers:
        age = f"{max(0.0, time.time() - one.heartbeat_at):.0f} s ago"
        jobs_held = "\n".join(one.jobs)
        table.add_row(one.id, one.host, str(one.pid), str(one.concurrency), age, jobs_held)
    console.print(table)
