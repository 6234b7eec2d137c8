"""One transaction of the queue: what it changes, and what must be settled before it ends."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from capturekit.queue.sql.tally import Change, Tally
from capturekit.queue.sql.turns import settle


@dataclass(slots=True)
class Transaction:
    """Handed to everything that writes; the queue closes it at the end."""

    connection: Connection
    now: float
    uniform: Callable[[], float]
    change: Change = field(default_factory=Change)
    keys: set[str] = field(default_factory=set)
    """Concurrency keys whose jobs came, went or changed their order."""

    def moved(self, queue: str, key: str | None, old: str, new: str) -> None:
        """A job went from one stored state to another."""
        self.change.moved(queue, old, new)
        if key is not None:
            self.keys.add(key)

    def close(self, tally: Tally) -> None:
        """Settle whose turn it is, and count what changed."""
        if self.keys:
            settle(self.connection, self.keys)
        tally.add(self.connection, self.change, self.now)
