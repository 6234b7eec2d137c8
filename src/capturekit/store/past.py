"""Stock as it was at any time: the fold over the facts up to then, as they are known today.

A picture that arrived late, or was corrected since, counts for the time when it was taken. What
the ledger said on that day is in its history instead.
"""

from typing import Final

from sqlalchemy import Float, Subquery, bindparam, case, func, null, select

from capturekit.store.fold import fold_query


def _stock_then() -> Subquery:
    folded = fold_query(until=bindparam("as_of", type_=Float)).subquery("folded")
    is_silent = folded.c.silence_run_id.is_not(None)
    counted = case((is_silent, 0), else_=func.coalesce(folded.c.count_quantity, 0))
    return select(
        folded.c.item_id,
        folded.c.location_id,
        (counted + folded.c.received - folded.c.given).label("quantity"),
        folded.c.version,
        case((is_silent, null()), else_=folded.c.count_confidence).label("confidence"),
        func.coalesce(folded.c.silence_at, folded.c.count_at).label("counted_at"),
        folded.c.seen_at.label("last_seen_at"),
        func.coalesce(folded.c.silence_run_id, folded.c.count_run_id).label("basis_run_id"),
        case((is_silent, null()), else_=folded.c.count_movement_id).label("basis_movement_id"),
    ).subquery("stock_then")


STOCK_THEN: Final = _stock_then()
"""Rows like those of the table stock, as of the parameter ``as_of``."""
