"""What an observation counts as: what a person said it is, else what the run said.

For statements that join ``observation`` with an outer join to its ``verdict``.
"""

from typing import Final

from sqlalchemy import ColumnElement, func

from capturekit.store.schema import observation, verdict

ITEM_SEEN: Final = func.coalesce(verdict.c.item_id, observation.c.item_id)
UNITS_SEEN: Final = func.coalesce(verdict.c.units, observation.c.units)


def is_live() -> ColumnElement[bool]:
    """An observation holds when its verdict says so, or without one when it was confident."""
    return func.coalesce(verdict.c.is_accepted, observation.c.is_confident)
