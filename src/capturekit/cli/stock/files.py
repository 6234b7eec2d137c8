"""``capturekit stock import`` and ``export``: items, codes, places, levels and counts in files."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from capturekit.cli.options import data_option, json_option
from capturekit.cli.stock.shared import ask, by_option, name_of
from capturekit.errors import ImportRefused

FORMATS: Final = ("csv", "json")
READABLE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Else by the name of the file, or csv."
)


@click.command("import")
@click.argument("file", type=READABLE)
@format_option
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@by_option
@data_option
@json_option
def import_items(
    file: Path,
    form: str | None,
    dry_run: bool,
    by: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Take items, codes, locations, par levels and counts from FILE (- is standard input).

    All of it or nothing: what is wrong is told row by row, and the exit code is 1.
    """
    content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    chosen = form or _by_name(file)
    try:
        report = ask(
            data_dir,
            lambda inventory: inventory.import_items(
                content, chosen, by=name_of(by), dry_run=dry_run
            ),
            may_be_new=True,
        )
    except ImportRefused as refused:
        if as_json:
            click.echo(json.dumps({"errors": [fault._asdict() for fault in refused.faults]}))
        for fault in refused.faults:
            click.echo(str(fault), err=True)
        click.echo("capturekit: nothing was imported", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    for name, number in asdict(report).items():
        if name != "is_dry_run" and number:
            click.echo(f"{number} {name.replace('_', ' ')}")
    click.echo("a dry run: nothing was changed" if report.is_dry_run else "done", err=True)


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@format_option
@data_option
def export_items(file: Path, form: str | None, data_dir: Path | None) -> None:
    """Write all that can be imported to FILE, or to standard output."""
    chosen = form or _by_name(file)
    content = ask(data_dir, lambda inventory: inventory.export_items(chosen))
    if str(file) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        file.write_bytes(content)
        click.echo(f"{file}: {len(content):,} bytes", err=True)


def _by_name(file: Path) -> str:
    return "json" if file.suffix.lower() == ".json" else "csv"
