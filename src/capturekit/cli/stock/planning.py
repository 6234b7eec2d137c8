"""``capturekit stock par``, ``alerts``, ``lots``, ``expiring`` and ``forecast``: what to buy."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from capturekit.cli.options import data_option, json_option
from capturekit.cli.stock.shared import (
    ask,
    by_option,
    item_option,
    limit_option,
    location_option,
    name_of,
    show,
)

if TYPE_CHECKING:
    from capturekit.store import Inventory, ParLevel

LEVEL: Final = ("item_id", "location_id", "minimum", "restock_at", "min_confidence", "is_low")


@click.group()
def par() -> None:
    """How little of an item there may be in a place."""


@par.command("list")
@item_option
@data_option
@json_option
def list_levels(item: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Show all par levels, and which of them are reached."""

    async def work(inventory: "Inventory") -> "list[ParLevel]":
        found: list[ParLevel] = []
        cursor: str | None = None
        while True:
            page = await inventory.par_levels(item=item, cursor=cursor, limit=500)
            found += page.rows
            if (cursor := page.next) is None:
                return found

    levels = ask(data_dir, work)
    show([level.as_json() for level in levels], LEVEL, as_json=as_json)


@par.command("set")
@click.argument("item")
@click.argument("location")
@click.argument("minimum", type=int)
@click.option("--restock-at", type=int, metavar="N", help="Low until here; else one over MINIMUM.")
@click.option(
    "--min-confidence",
    type=float,
    default=0.0,
    show_default=True,
    metavar="C",
    help="Figures less certain than this, 0 to 1, neither raise an alert nor clear one.",
)
@by_option
@data_option
@json_option
def set_level(
    item: str,
    location: str,
    minimum: int,
    restock_at: int | None,
    min_confidence: float,
    by: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Raise an alert when LOCATION and what is below it has MINIMUM of ITEM or less."""

    async def work(inventory: "Inventory") -> "ParLevel":
        return await inventory.set_par_level(
            item,
            location,
            minimum,
            restock_at=restock_at,
            min_confidence=min_confidence,
            by=name_of(by),
        )

    show([ask(data_dir, work).as_json()], LEVEL, as_json=as_json)


@par.command("remove")
@click.argument("item")
@click.argument("location")
@data_option
@json_option
def remove_level(item: str, location: str, data_dir: Path | None, as_json: bool) -> None:
    """Forget the par level of ITEM in LOCATION."""
    ask(data_dir, lambda inventory: inventory.remove_par_level(item, location))
    if as_json:
        click.echo(json.dumps({"item_id": item, "location_id": location}))
    click.echo(f"no par level of {item} in {location} any more", err=True)


@click.command()
@item_option
@click.option("--all", "is_all", is_flag=True, help="Those that were cleared, too.")
@limit_option
@data_option
@json_option
def alerts(
    item: str | None, is_all: bool, limit: int, data_dir: Path | None, as_json: bool
) -> None:
    """Show the alerts that are open, the newest first."""
    page = ask(
        data_dir, lambda inventory: inventory.alerts(item=item, is_open=not is_all, limit=limit)
    )
    columns = ("alert_id", "kind", "item_id", "location_id", "quantity", "raised_at", "cleared_at")
    show([alert.as_json() for alert in page.rows], columns, as_json=as_json)


@click.command()
@click.argument("item")
@location_option
@data_option
@json_option
def lots(item: str, location: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Show which lots stock of ITEM is made of, what expires first first."""
    found = ask(data_dir, lambda inventory: inventory.lots(item, location))
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    rows = [
        {"lot": one.lot, "expires_on": str(one.expires_on or ""), "quantity": one.quantity}
        for one in found.lots
    ]
    show(rows, ("lot", "expires_on", "quantity"), as_json=False)
    click.echo(f"{found.quantity} in all, {found.unknown} of no known lot")


@click.command()
@click.option(
    "--days",
    "within_days",
    type=click.IntRange(0, 3660),
    default=7,
    show_default=True,
    help="Days from today, UTC.",
)
@location_option
@data_option
@json_option
def expiring(within_days: int, location: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Show stock that expires soon, or did, what expires first first."""
    found = ask(data_dir, lambda inventory: inventory.expiring(within_days, location=location))
    columns = ("expires_on", "item_id", "name", "lot", "quantity")
    show([one.as_json() for one in found], columns, as_json=as_json)


@click.command()
@click.argument("item")
@location_option
@click.option(
    "--days", type=click.IntRange(1, 366), default=28, show_default=True, help="Days to look back."
)
@data_option
@json_option
def forecast(
    item: str, location: str | None, days: int, data_dir: Path | None, as_json: bool
) -> None:
    """Show how many days ITEM will last, if it is used as it was."""
    found = ask(data_dir, lambda inventory: inventory.forecast(item, location, days=days))
    if as_json:
        click.echo(json.dumps(found.as_json()))
    elif found.per_day is None or found.days_left is None:
        known = f"{found.days_known:.1f} days are known"
        click.echo(f"{found.quantity} left; {known}, too few or without any use")
    else:
        click.echo(
            f"{found.quantity} left, {found.per_day:.2g} used a day: {found.days_left:.0f} days"
        )
