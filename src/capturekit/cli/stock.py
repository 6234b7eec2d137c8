"""``capturekit stock``: what the ledger says."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capturekit.cli.options import data_option, json_option, with_kit
from capturekit.times import iso

if TYPE_CHECKING:
    from capturekit.kit import CaptureKit
    from capturekit.store import StockRow


@click.command()
@click.option("--location", help="Only what is there.")
@data_option
@json_option
def stock(location: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Show how much there is of each item, and where."""
    from capturekit.settings import Settings

    async def work(kit: "CaptureKit") -> "list[StockRow]":
        lines: list[StockRow] = []
        cursor = None
        while True:
            page = await kit.store.inventory.stock(location=location, cursor=cursor)
            lines += page.rows
            if (cursor := page.next) is None:
                return lines

    lines = with_kit(Settings.load(data_dir=data_dir), work)
    if as_json:
        click.echo(json.dumps([asdict(line) for line in lines]))
    else:
        _print(lines)


def _print(rows: "list[StockRow]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("item", "name", "quantity", "location", "last seen")
    for row in rows:
        seen = iso(row.last_seen_at) or ""
        quantity = f"{row.quantity} {row.unit or ''}".strip()
        table.add_row(row.item_id, row.name, quantity, row.location, seen)
    Console().print(table)
