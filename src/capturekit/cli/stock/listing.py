"""``capturekit stock``: what the ledger says, why, and how it came to that."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capturekit.cli.options import data_option, json_option
from capturekit.cli.stock.shared import (
    TIME,
    as_of_option,
    ask,
    item_option,
    limit_option,
    location_option,
    seconds,
    show,
)
from capturekit.times import brief

if TYPE_CHECKING:
    from pydantic import JsonValue

    from capturekit.store import HistoryLine, Inventory, Page, StockRow, Why


@click.group(invoke_without_command=True)
@click.option("--location", help="Only what is there.")
@as_of_option
@data_option
@json_option
@click.pass_context
def stock(
    ctx: click.Context,
    location: str | None,
    as_of: datetime | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show how much there is of each item, and where; or say what was done to it."""
    if ctx.invoked_subcommand is not None:
        return

    async def work(inventory: "Inventory") -> "list[StockRow]":
        lines = inventory.all_stock(location=location, as_of=seconds(as_of))
        return [line async for line in lines]

    lines = ask(data_dir, work)
    if as_json:
        click.echo(json.dumps([asdict(line) for line in lines]))
    else:
        _print(lines)


@click.command()
@click.argument("item")
@location_option
@as_of_option
@data_option
@json_option
def why(
    item: str,
    location: str | None,
    as_of: datetime | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show what each figure of ITEM rests on: who counted or which picture, and what followed."""
    at = seconds(as_of)

    async def work(inventory: "Inventory") -> "list[Why]":
        page = await inventory.stock(item=item, location=location, as_of=at, limit=500)
        return [await inventory.why(item, row.location, as_of=at) for row in page.rows]

    found = ask(data_dir, work)
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found]))
        return
    for one in found:
        _explain(one)


@click.command()
@item_option
@click.option("--location", metavar="ID", help="Only what happened there.")
@click.option("--since", type=TIME, metavar="TIME", help="Only lines written since, in UTC.")
@click.option("--until", type=TIME, metavar="TIME", help="Only lines written until, in UTC.")
@limit_option
@data_option
@json_option
def history(
    item: str | None,
    location: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show the lines of the ledger, the last written first, with who or what caused each."""

    async def work(inventory: "Inventory") -> "Page[HistoryLine]":
        return await inventory.history(
            item=item, location=location, since=seconds(since), until=seconds(until), limit=limit
        )

    lines = ask(data_dir, work).rows
    if as_json:
        show([line.as_json() for line in lines], (), as_json=True)
    else:
        columns = ("seq", "recorded (UTC)", "item", "stock", "cause")
        show([_line(line) for line in lines], columns, as_json=False)


def _line(line: "HistoryLine") -> "dict[str, JsonValue]":
    cause = line.origin
    words = (cause.movement_kind or cause.kind, cause.by, cause.reason, cause.capture_id)
    return {
        "seq": line.seq,
        "recorded (UTC)": brief(line.recorded_at),
        "item": line.item_id,
        "stock": "\n".join(f"{end.location_id}: {end.before} → {end.after}" for end in line.ends),
        "cause": " ".join(word for word in words if word),
    }


def _explain(one: "Why") -> None:
    told = one.as_json()
    basis = told["basis"]
    unit = f" {one.stock.unit}" if one.stock.unit else ""
    click.echo(f"{one.stock.item_id} in {one.stock.location}: {one.stock.quantity}{unit}")
    if not isinstance(basis, dict):
        click.echo("  nobody counted: movements alone")
    elif basis["kind"] == "person":
        click.echo(f"  {basis['by'] or 'someone'} counted {basis['quantity']} at {basis['at']}")
    else:
        click.echo(
            f"  {basis['device_id']} took capture {basis['capture_id']} at {basis['captured_at']},"
            f" run {basis['run_id']}"
        )
        evidence = basis["evidence"]
        for seen in evidence if isinstance(evidence, list) else []:
            if isinstance(seen, dict):
                click.echo(
                    f"    {seen['analyser']} saw {seen['quantity']}"
                    f" with confidence {seen['confidence']}, box {seen['box']}"
                )
    for done in one.movements:
        way = f"{done.source or ''} > {done.target or ''}"
        click.echo(f"  then {done.kind} {done.quantity} ({way.strip()}) by {done.by or 'someone'}")


def _print(rows: "list[StockRow]") -> None:
    from rich.console import Console
    from rich.table import Column, Table

    names = ("item", "name", "quantity", "location")
    # Folded, not cut: an id that is shown must be one that can be named.
    table = Table(*(Column(name, overflow="fold") for name in names), "last seen (UTC)")
    for row in rows:
        quantity = f"{row.quantity} {row.unit or ''}".strip()
        table.add_row(row.item_id, row.name, quantity, row.location, brief(row.last_seen_at))
    Console().print(table)
