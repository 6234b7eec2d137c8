"""The ``capturekit`` command; each subcommand's module is loaded when it is called."""

import sys
from importlib import import_module
from typing import Final

import click

from capturekit import __version__
from capturekit.errors import CaptureKitError

COMMANDS: Final = {
    "process": "capturekit.cli.process:process",
    "serve": "capturekit.cli.serve:serve",
    "worker": "capturekit.cli.serve:worker",
    "watch": "capturekit.cli.intake:watch",
    "poll": "capturekit.cli.intake:poll",
    "demo": "capturekit.cli.demo:demo",
    "devices": "capturekit.cli.devices:devices",
    "tokens": "capturekit.cli.tokens:tokens",
    "people": "capturekit.cli.people:people",
    "stock": "capturekit.cli.stock:stock",
    "review": "capturekit.cli.review:review",
    "reprocess": "capturekit.cli.reprocess:reprocess",
    "queue": "capturekit.cli.queue:queue",
    "limits": "capturekit.cli.limits:limits",
    "webhooks": "capturekit.cli.webhooks:webhooks",
    "db": "capturekit.cli.db:db",
    "storage": "capturekit.cli.storage:storage",
    "backup": "capturekit.cli.backup:backup",
    "restore": "capturekit.cli.backup:restore",
    "openapi": "capturekit.cli.openapi:openapi",
    "doctor": "capturekit.cli.doctor:doctor",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="capturekit")
def cli() -> None:
    """From pictures of cheap cameras to a stock ledger one can trust.

    Settings come from arguments, CAPTUREKIT_* variables, a .env file and capturekit.toml,
    the strongest first.
    """


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 1."""
    try:
        cli()
    except (CaptureKitError, OSError) as error:
        # An OSError here is one that no part took for its own, such as a full disk below --out.
        click.echo(f"capturekit: {error}", err=True)
        sys.exit(1)
