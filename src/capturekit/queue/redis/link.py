"""The way to the server: connects when asked, tells errors as ours, and never waits for ever."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from capturekit.errors import (
    StorageBusy,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)
from capturekit.queue.redis.scripts import Script
from capturekit.queue.redis.wire import Lost, Refused, Reply, Wire, Word, packed
from capturekit.redisurl import AnyConnection, Cluster, OneServer, Sentinels, parsed

MAX_MOVES: Final = 3
"""How often one call follows a Cluster's slot to the node that took it over."""

_MEANINGS: Final[dict[str, type[StorageError]]] = {
    "OOM command not allowed": StorageFull,
    "MISCONF": StorageReadOnly,
    "READONLY": StorageReadOnly,
    "WRONGTYPE": StorageCorrupt,
    "BUSY ": StorageBusy,
}
"""By what the server's text holds: inside a script, older servers put words before it."""

_ELSEWHERE: Final = ("MOVED", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")
"""After these another server may have the place of the one that was asked."""


class Link:
    """Calls of one server, over one connection that is made anew when it broke.

    No call takes longer than ``deadline_s`` seconds, connecting included. One that fails may
    have been done: nothing is tried twice.
    """

    def __init__(self, url: str, *, base: str, deadline_s: float) -> None:
        self._server = parsed(url)
        self._base = base.encode()
        self._deadline_s = deadline_s
        self._wire: Wire | None = None
        self._connecting = asyncio.Lock()
        self._make: Callable[[], AnyConnection] | None = None
        self._sentinels: Sequence[Redis] = ()
        self._node: tuple[str, int] | None = None

    async def run(self, script: Script, *words: Word) -> Reply:
        """The script's answer. Raises StorageError."""
        try:
            return await self._ask(packed((b"EVALSHA", script.sha, b"1", self._base, *words)))
        except Refused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise as_ours(error) from error
        # A server that restarted or was flushed; EVAL leaves the script there.
        try:
            return await self._ask(packed((b"EVAL", script.text, b"1", self._base, *words)))
        except Refused as error:
            raise as_ours(error) from error

    async def call(self, *words: bytes) -> Reply:
        """The answer to a command of the server's own. Raises StorageError."""
        try:
            return await self._ask(packed(words))
        except Refused as error:
            raise as_ours(error) from error

    async def fresh(self) -> Wire:
        """A connection of one's own, for blocking. Raises StorageUnavailable."""
        async with _deadline(self._deadline_s):
            return await self._connect()

    async def aclose(self) -> None:
        """Close the connection; a later call opens another."""
        if self._wire is not None:
            self._wire.close()
        for sentinel in self._sentinels:
            await sentinel.connection_pool.disconnect()

    async def _ask(self, command: bytes) -> Reply:
        for _ in range(MAX_MOVES):
            wire = self._wire
            try:
                if wire is not None and wire.is_open:
                    return await wire.ask(command, self._deadline_s).answer
                async with _deadline(self._deadline_s):
                    wire = await self._opened()
                    return await wire.ask(command, self._deadline_s).answer
            except Refused as error:
                if not self._has_moved(str(error)):
                    raise
        raise StorageUnavailable("Redis: the slot of this queue moves from node to node")

    def _has_moved(self, problem: str) -> bool:
        """Whether another node of the Cluster has our keys; the next call goes there."""
        if not any(text in problem for text in _ELSEWHERE):
            return False
        if self._wire is not None:
            self._wire.close("the server refused: " + problem)
        word, _, address = problem.partition(" ")
        if word != "MOVED":
            return False
        host, _, port = address.rpartition(" ")[2].rpartition(":")
        # An empty host means the one that was asked.
        self._node = (host or (self._node or ("", 0))[0], int(port))
        return True

    async def _opened(self) -> Wire:
        async with self._connecting:
            if self._wire is None or not self._wire.is_open:
                self._wire = await self._connect()
            return self._wire

    async def _connect(self) -> Wire:
        if not isinstance(self._server, Cluster):
            return await _connected(self._maker(self._server)())
        known = [self._node] if self._node else []
        problem: StorageUnavailable | None = None
        for host, port in (*known, *self._server.hosts):
            try:
                wire = await _connected(self._server.make(host, port))
            except StorageUnavailable as error:
                problem = error
            else:
                self._node = (host, port)
                return wire
        self._node = None
        raise problem or StorageUnavailable("Redis: a Cluster without nodes")

    def _maker(self, server: OneServer | Sentinels) -> Callable[[], AnyConnection]:
        if isinstance(server, OneServer):
            return server.make
        if self._make is None:
            self._make, self._sentinels = server.connect()
        return self._make


def as_ours(error: Refused) -> StorageError:
    """The server's error as one of ours."""
    for text, meaning in _MEANINGS.items():
        if text in str(error):
            return meaning(f"Redis: {error}")
    return StorageUnavailable(f"Redis: {error}")


class _deadline:  # noqa: N801  # reads as asyncio.timeout does
    """As ``asyncio.timeout``, but raises Lost."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        try:
            await self._timeout.__aexit__(*raised)  # type: ignore[arg-type]
        except TimeoutError as error:
            raise Lost(f"Redis: no answer within {self._seconds:g} s") from error


async def _connected(connection: AnyConnection) -> Wire:
    try:
        await connection.connect()
        return Wire(connection)
    except (RedisError, OSError) as error:
        await connection.disconnect(nowait=True)
        # redis-py's messages hold the address, never the password.
        raise StorageUnavailable(f"Redis: {type(error).__name__}: {error}") from error
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
