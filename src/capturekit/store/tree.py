"""The tree of locations, as queries for what is below and above one."""

from sqlalchemy import BindParameter, ColumnElement, Select, select

from capturekit.store.schema import location


def within(id: str | ColumnElement[str]) -> Select[str]:
    """The query for the ids of this location and all below it."""
    below = select(location.c.id).where(location.c.id == id).cte("below", recursive=True)
    below = below.union(select(location.c.id).where(location.c.parent_id == below.c.id))
    return select(below.c.id)


def above(ids: BindParameter[str]) -> Select[str]:
    """The query for the ids of these locations and all above them; ``ids`` is expanding."""
    up = (
        select(location.c.id, location.c.parent_id)
        .where(location.c.id.in_(ids))
        .cte("above", recursive=True)
    )
    parents = select(location.c.id, location.c.parent_id).where(location.c.id == up.c.parent_id)
    return select(up.union(parents).c.id)
