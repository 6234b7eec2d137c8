"""``capturekit stock``: what there is and why, and what people say they did to it."""

from typing import Final

import click

from capturekit.cli.stock.files import export_items, import_items
from capturekit.cli.stock.listing import history, stock, why
from capturekit.cli.stock.moving import count, move, receive, undo, use, write_off
from capturekit.cli.stock.planning import alerts, expiring, forecast, lots, par

__all__ = ["stock"]

_COMMANDS: Final[tuple[click.Command, ...]] = (
    *(why, history),
    *(receive, use, move, count, write_off, undo),
    *(par, alerts, lots, expiring, forecast),
    *(import_items, export_items),
)

for _command in _COMMANDS:
    stock.add_command(_command)
