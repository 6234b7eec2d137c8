"""``capturekit demo``: simulated shelf cameras, and the proof that stock is right."""

import asyncio
import json
import signal
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio
import click

from capturekit.cli.options import json_option

if TYPE_CHECKING:
    from capturekit.demo.run import DemoOptions, Event
    from capturekit.demo.server import RunningServer
    from capturekit.demo.verdict import Verdict

MAX_CAMERAS: Final = 50
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option(
    "--cameras",
    default=3,
    show_default=True,
    type=click.IntRange(1, MAX_CAMERAS),
    help="How many shelves are watched.",
)
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    type=click.FloatRange(1, 86_400),
    help="How long they upload; the verdict follows.",
)
@click.option("--seed", default=0, show_default=True, help="The same seed is the same story.")
@click.option("--headless", is_flag=True, help="Do not open the dashboard in the browser.")
@click.option(
    "--chaos",
    type=click.Choice(["kill-worker"]),
    help="Let workers do the work, and kill one after the other with SIGKILL.",
)
@json_option
def demo(
    cameras: int, seconds: float, seed: int, *, headless: bool, chaos: str | None, as_json: bool
) -> None:
    """Simulated shelf cameras, and the proof that stock is right.

    Starts the real application on a temporary folder, lets cameras upload pictures of shelves
    whose stock is known, then compares. Some uploads come twice, late or damaged. Ctrl-C ends
    it early, with a verdict. Exits with 1 unless everything agrees.
    """
    from capturekit.demo.chaos import Chaos
    from capturekit.demo.run import DemoOptions

    options = DemoOptions(
        cameras=cameras, seconds=seconds, seed=seed, chaos=Chaos(chaos) if chaos else None
    )
    sys.exit(report(anyio.run(_run, options, headless), as_json=as_json))


def report(verdict: "Verdict", *, as_json: bool) -> int:
    """Print the verdict, complaints on standard error, and return the exit code."""
    if as_json:
        click.echo(json.dumps(verdict.as_json()))
    else:
        _print_table(verdict)
    for complaint in verdict.complaints:
        click.echo(f"capturekit demo: {complaint}", err=True)
    return 0 if verdict.ok else 1


async def _run(options: "DemoOptions", headless: bool) -> "Verdict":
    from capturekit.demo.run import run

    stop = anyio.Event()
    on_ready = _show_url if headless else _open_dashboard
    with (
        anyio.CancelScope() as everything,
        _signals(stop, everything),
        _progress(options) as on_event,
    ):
        return await run(options, stop=stop, on_ready=on_ready, on_event=on_event)
    raise click.Abort


@contextmanager
def _signals(stop: anyio.Event, everything: anyio.CancelScope) -> Iterator[None]:
    """The first signal asks for a verdict on what was done, the second for none."""

    def obey() -> None:
        if stop.is_set():
            everything.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, obey)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def _progress(options: "DemoOptions") -> "Iterator[Callable[[Event], None]]":
    """A bar on standard error with what happened last; prints nothing to a log."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[captures]} captures"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    is_log = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_log) as progress:
        task = progress.add_task("starting the server", total=options.seconds, captures=0)

        def show(event: "Event") -> None:
            progress.update(
                task,
                completed=event.at_s,
                description=f"{event.shelf}: {event.text}",
                captures=event.captures,
            )

        yield show


def _show_url(server: "RunningServer") -> None:
    click.echo(f"capturekit demo: the dashboard is at {server.dashboard_url}", err=True)


def _open_dashboard(server: "RunningServer") -> None:
    _show_url(server)
    webbrowser.open(server.dashboard_url)


def _print_table(verdict: "Verdict") -> None:
    from rich.console import Console
    from rich.table import Table

    from capturekit.demo.shelves import product_name

    table = Table("product", "code", "shelf")
    table.add_column("true", justify="right")
    table.add_column("ledger", justify="right")
    for row in verdict.rows:
        style = None if row.true == row.ledger else "bold red"
        name = product_name(row.code)
        table.add_row(name, row.code, row.shelf, str(row.true), str(row.ledger), style=style)
    console = Console()
    console.print(table)
    console.print(_summary(verdict), highlight=False)


def _summary(verdict: "Verdict") -> str:
    agree = sum(row.true == row.ledger for row in verdict.rows)
    lines = (
        f"accuracy        {verdict.accuracy:.1%}  ({agree} of {len(verdict.rows)} agree)",
        f"double counts   {verdict.double_counts}",
        f"captures        {verdict.captures} stored, {verdict.lost} lost",
        f"hostile uploads {verdict.refused} refused",
        f"upload to stock {_ms(verdict.p50_ms)} p50, {_ms(verdict.p95_ms)} p95",
        f"verdict         {'everything agrees' if verdict.ok else 'NOT ok'} (seed {verdict.seed})",
    )
    killed = () if verdict.kills is None else (f"workers killed  {verdict.kills}",)
    return "\n".join((*lines[:-1], *killed, lines[-1]))


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.0f} ms"
