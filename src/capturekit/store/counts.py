"""How much the ledger holds, for stats."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from capturekit.store.review import implausible_proposals, open_proposals
from capturekit.store.schema import item, location, move, observation, stock


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of things at one moment."""

    observations: int
    proposals: int
    """Doubtful observations that wait for a person."""
    items: int
    items_in_stock: int
    """Items of which there is more than nothing somewhere."""
    locations: int
    moves: int


def count(connection: Connection) -> Counts:
    """Count. Tables that only grow are counted by their highest key, at no cost."""
    places = select(func.count()).select_from(location).where(location.c.is_virtual.is_(False))
    in_stock = (
        select(func.count(stock.c.item_id.distinct()))
        .join(location, location.c.id == stock.c.location_id)
        .where(stock.c.quantity > 0, location.c.is_virtual.is_(False))
    )
    queries = (
        select(func.coalesce(func.max(observation.c.id), 0)),
        open_proposals().with_only_columns(func.count()),
        select(func.count()).select_from(item),
        in_stock,
        places,
        select(func.coalesce(func.max(move.c.seq), 0)),
    )
    seen, proposals, *rest = (connection.scalars(query).one() for query in queries)
    return Counts(seen, proposals + len(implausible_proposals(connection)), *rest)
