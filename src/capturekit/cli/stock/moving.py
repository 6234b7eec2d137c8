"""``capturekit stock receive`` and what else people say they did, and take back."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capturekit.cli.options import data_option, json_option
from capturekit.cli.stock.shared import Said, ask, by_option, name_of, said_options

if TYPE_CHECKING:
    from capturekit.store import Inventory, Movement, NewMovement, StockChange

item_argument = click.argument("item")
quantity_argument = click.argument("quantity", type=int)
from_option = click.option("--from", "source", metavar="ID", required=True, help="Where it was.")
to_option = click.option("--to", "target", metavar="ID", required=True, help="Where it is now.")
lot_option = click.option("--lot", metavar="NAME", help="Which units they are.")
negative_option = click.option(
    "--may-go-negative", is_flag=True, help="Even where the ledger says there are fewer."
)


@click.command()
@item_argument
@quantity_argument
@to_option
@lot_option
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DAY",
    help="The day that the lot expires on.",
)
@data_option
@json_option
@said_options
def receive(
    item: str, quantity: int, target: str, lot: str | None, expires: datetime | None, said: Said
) -> None:
    """Say that QUANTITY of ITEM, an item or a code, was delivered."""
    from capturekit.store import MovementKind, NewMovement

    day = expires.date() if expires else None

    def new() -> NewMovement:
        return NewMovement(
            MovementKind.RECEIVE,
            item,
            quantity,
            target=target,
            at=said.at,
            by=said.by,
            key=said.key,
            reason=said.reason,
            lot=lot,
            expires_on=day,
        )

    _do(said, new)


@click.command()
@item_argument
@quantity_argument
@from_option
@lot_option
@negative_option
@data_option
@json_option
@said_options
def use(
    item: str, quantity: int, source: str, lot: str | None, may_go_negative: bool, said: Said
) -> None:
    """Say that QUANTITY of ITEM was used up."""
    _take("use", item, quantity, source, lot, said, may_go_negative=may_go_negative)


@click.command("write-off")
@item_argument
@quantity_argument
@from_option
@lot_option
@negative_option
@data_option
@json_option
@said_options
def write_off(
    item: str, quantity: int, source: str, lot: str | None, may_go_negative: bool, said: Said
) -> None:
    """Say that QUANTITY of ITEM was lost, broken or thrown away."""
    _take("write_off", item, quantity, source, lot, said, may_go_negative=may_go_negative)


@click.command()
@item_argument
@quantity_argument
@from_option
@to_option
@lot_option
@negative_option
@data_option
@json_option
@said_options
def move(
    item: str,
    quantity: int,
    source: str,
    target: str,
    lot: str | None,
    may_go_negative: bool,
    said: Said,
) -> None:
    """Say that QUANTITY of ITEM was carried from one location to another."""
    _take("move", item, quantity, source, lot, said, target=target, may_go_negative=may_go_negative)


@click.command()
@item_argument
@quantity_argument
@click.option("--in", "target", metavar="ID", required=True, help="Where it was counted.")
@data_option
@json_option
@said_options
def count(item: str, quantity: int, target: str, said: Said) -> None:
    """Say that there are QUANTITY of ITEM, whatever was thought before."""
    from capturekit.store import MovementKind, NewMovement

    def new() -> NewMovement:
        return NewMovement(
            MovementKind.COUNT,
            item,
            quantity,
            target=target,
            at=said.at,
            by=said.by,
            key=said.key,
            reason=said.reason,
        )

    _do(said, new)


@click.command()
@click.argument("movement")
@by_option
@data_option
@json_option
def undo(movement: str, by: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Take MOVEMENT back, by its id, whatever came after it."""

    async def work(inventory: "Inventory") -> "tuple[Movement, list[StockChange]]":
        changes = await inventory.void(movement, name_of(by))
        return await inventory.movement(movement), changes

    _tell(*ask(data_dir, work), as_json=as_json)


def _take(
    kind: str,
    item: str,
    quantity: int,
    source: str,
    lot: str | None,
    said: Said,
    *,
    target: str | None = None,
    may_go_negative: bool,
) -> None:
    from capturekit.store import MovementKind, NewMovement

    def new() -> NewMovement:
        return NewMovement(
            MovementKind(kind),
            item,
            quantity,
            source,
            target,
            at=said.at,
            by=said.by,
            key=said.key,
            may_go_negative=may_go_negative,
            reason=said.reason,
            lot=lot,
        )

    _do(said, new)


def _do(said: Said, new: "Callable[[], NewMovement]") -> None:
    async def work(inventory: "Inventory") -> "tuple[Movement, list[StockChange]]":
        # Made here, where a wrong value becomes a usage error.
        return await inventory.move(new())

    _tell(*ask(said.data_dir, work), as_json=said.as_json)


def _tell(movement: "Movement", changes: "list[StockChange]", *, as_json: bool) -> None:
    if as_json:
        told = [
            {
                "item_id": change.item_id,
                "location_id": change.location_id,
                "before": change.before,
                "after": change.after,
            }
            for change in changes
        ]
        click.echo(json.dumps({"movement": movement.as_json(), "changes": told}))
        return
    click.echo(f"movement: {movement.id}")
    for change in changes:
        click.echo(f"{change.item_id} in {change.location_id}: {change.before} > {change.after}")
    if not changes:
        click.echo("stock is as it was")
