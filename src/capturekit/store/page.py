"""One page of a long list, and the cursor to the next."""

import base64
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import JsonValue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, in order."""

    rows: tuple[T, ...]
    next: str | None
    """The cursor of the page after this one; None on the last."""


def to_cursor(position: list[JsonValue]) -> str:
    """A place in an order, as text that is safe in a URL."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def from_cursor(cursor: str, length: int) -> list[JsonValue]:
    """The place that ``to_cursor`` was given; ValueError for anything else."""
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        position = json.loads(base64.urlsafe_b64decode(padded))
    except ValueError as error:
        raise ValueError(f"{cursor!r} is not a cursor of this list") from error
    if not isinstance(position, list) or len(position) != length:
        raise ValueError(f"{cursor!r} is not a cursor of this list")
    return position
