"""``capturekit db``: the database's schema."""

import sys
from pathlib import Path

import anyio
import click

from capturekit.cli.options import data_option, with_kit


@click.group()
def db() -> None:
    """The database's schema: bring it up to date, check it."""


@db.command()
@data_option
def upgrade(data_dir: Path | None) -> None:
    """Bring the database to this version's schema.

    On SQLite every start does it, too. On Postgres do it when you install a new version: stop
    the servers and workers, upgrade, start the new ones.
    """
    from capturekit.kit import upgrade_database
    from capturekit.settings import Settings

    revision = anyio.run(upgrade_database, Settings.load(data_dir=data_dir))
    click.echo(f"the database is at revision {revision}")


@db.command()
@data_option
def check(data_dir: Path | None) -> None:
    """Compare the database's tables with what this version expects; exit 1 if they differ."""
    from capturekit.kit import CaptureKit
    from capturekit.settings import Settings

    async def work(kit: CaptureKit) -> list[str]:
        return await kit.check_database()

    differences = with_kit(Settings.load(data_dir=data_dir), work)
    for difference in differences:
        click.echo(difference)
    click.echo("the database differs" if differences else "the database is as expected", err=True)
    sys.exit(bool(differences))
