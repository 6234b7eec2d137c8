"""Events, written in the transaction of what they tell: there is none without the other.

Their numbers grow in the order of commits, because whoever writes one holds the ledger's lock.
So a reader that remembers the last number it saw misses nothing.
"""

import secrets
from collections.abc import Sequence
from dataclasses import asdict

from pydantic import JsonValue
from sqlalchemy import Connection

from capturekit.store.changes import Cause, StockChange
from capturekit.store.schema import event


def tell(
    connection: Connection,
    kind: str,
    payload: dict[str, JsonValue],
    at: float,
    *,
    item_id: str | None = None,
) -> None:
    """Write an event, such as ``stock.changed``. The transaction must hold the ledger's lock."""
    connection.execute(event.insert(), [_row(kind, payload, at, item_id)])


def tell_changes(connection: Connection, changes: Sequence[StockChange], cause: Cause) -> None:
    """Write an event ``stock.changed`` for each key whose quantity changed."""
    if not changes:
        return
    why: dict[str, JsonValue] = {"kind": cause.kind, "id": cause.id}
    connection.execute(
        event.insert(),
        [
            _row("stock.changed", {**asdict(one), "cause": why}, cause.at, one.item_id)
            for one in changes
        ],
    )


def _row(
    kind: str, payload: dict[str, JsonValue], at: float, item_id: str | None
) -> dict[str, object]:
    return {
        "id": f"evt_{secrets.token_hex(12)}",
        "kind": kind,
        "item_id": item_id,
        "payload": payload,
        "recorded_at": at,
    }
