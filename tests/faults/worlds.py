"""Where the queue of a fault test lives: each backend, with the server that can be killed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.servers_postgres import PostgresServer, running_postgres
from tests.servers_redis import RedisServer, running_redis

KEEPS_ALL = ("--appendonly", "yes", "--appendfsync", "always")
"""Redis acknowledges nothing that is not on the disk."""


@dataclass(frozen=True, slots=True)
class World:
    """A queue that is kept somewhere."""

    url: str
    folder: Path
    server: RedisServer | PostgresServer | None = None

    def kill_server(self) -> None:
        """End it at once and without a word, and start it again on what it had kept."""
        assert self.server is not None
        self.server.kill()
        self.server.start()


@contextmanager
def on_sqlite(folder: Path) -> Iterator[World]:
    yield World(f"sqlite:///{folder / 'queue.db'}", folder)


@contextmanager
def on_postgres(folder: Path) -> Iterator[World]:
    with running_postgres() as server:
        yield World(server.new_database(), folder, server)


@contextmanager
def on_redis(folder: Path, kind: str = "valkey") -> Iterator[World]:
    with running_redis(kind, folder / "redis", *KEEPS_ALL) as server:
        yield World(server.url, folder, server)


WORLDS: dict[str, Callable[[Path], AbstractContextManager[World]]] = {
    "sqlite": on_sqlite,
    "postgres": on_postgres,
    "redis": on_redis,
    "redis-6.2": partial(on_redis, kind="redis"),
}
