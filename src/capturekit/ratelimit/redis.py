"""What callers spent, in a Redis or Valkey server that several processes share.

One decision is one Lua script (``decide.lua``) over one key, in one round trip. Time is the
server's, in whole microseconds; the client's clock plays no part.
"""

import asyncio
import hashlib
import math
import re
import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final, Protocol, Self, TypeVar

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from capturekit.errors import KeyInTheWay, StorageUnavailable
from capturekit.ratelimit.decision import Decision, Quota
from capturekit.ratelimit.memory import EXACT_UP_TO, SUB_BUCKETS
from capturekit.redisurl import AnyConnection, Cluster, OneServer, Sentinels, parsed

MAX_CONNECTIONS = 32
"""Open at once to a server, per event loop; further decisions wait for one of them."""

MAX_KEY_BYTES = 128
"""Longer keys are stored as their digest, so that no caller chooses how much is stored."""

MAX_WINDOW_US = 2**51
"""71 years. A longer window counts as this one: Lua's numbers are exact up to 2^53."""

MAX_COUNT = 2**52
"""Costs and limits above this count as this, for the same reason."""

MAX_SCANS = 200
"""Trips in which keys are looked for: 200,000 keys of whatever else is on the server."""

SCRIPT: Final = (
    files("capturekit.ratelimit")
    .joinpath("decide.lua")
    .read_text("utf-8")
    .replace("$EXACT_UP_TO", str(EXACT_UP_TO))
    .replace("$SUB_BUCKETS", str(SUB_BUCKETS))
)
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest().encode()

_ANSWER: Final = struct.Struct(">Bdddd")
_SERVERS_CLOCK: Final = -1

T = TypeVar("T")


class RedisStorage:
    """A Storage for many processes: Redis from 6.2, Valkey, Sentinel or Cluster.

    A key costs at most 1.2 kB per window (1.9 kB for a while where its limit moved across
    64), and expires when it holds nothing any more. It is one Redis key, so a Cluster keeps
    it in one slot. What MemoryStorage answers, this does, to the microsecond, with two
    differences. Windows that only another process knows reach a key when that process first
    asks for it. And the server's wall clock is the only clock there is: when it steps back,
    time stands still; when it steps forward, that much time has passed, so a step grants at
    most one more limit.

    Every failure is a StorageError: KeyInTheWay for a key that holds something else,
    StorageUnavailable for all others. This class waits as long as it takes; FailoverStorage
    gives it a deadline and an answer for failures. Cancelling a decision closes its
    connection. A connection that turns out closed is replaced once: the cost may then have
    been spent twice, never less than once.

    Give it a server, or a database of one, with ``maxmemory-policy noeviction``: keys that it
    evicts are quota granted.

    Connections belong to the event loop that made them; each loop has its own. ``aclose``
    closes those of the loop it is called in.

    Args:
        url: As ``capturekit.redisurl.parsed`` reads it.
        prefix: Begins every Redis key.
    """

    def __init__(self, url: str, *, prefix: str = "ck:") -> None:
        self._connect = _connector(url)
        self._prefix = prefix.encode()
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        # Windows that this process has asked for, by account. As in memory, each key
        # hears of spendings in all of them.
        self._windows_us: dict[str, dict[int, None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close this event loop's connections. A later decision opens new ones."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.aclose()

    async def decide(
        self, account: str, key: str, quotas: Sequence[Quota], cost: int, *, spend: bool
    ) -> Decision:
        """See Storage."""
        decision, _ = await self.decide_timed(account, key, quotas, cost, spend=spend)
        return decision

    async def decide_timed(
        self,
        account: str,
        key: str,
        quotas: Sequence[Quota],
        cost: int,
        *,
        spend: bool,
        now_us: int = _SERVERS_CLOCK,
    ) -> tuple[Decision, int]:
        """A decision and the server's time of it, in microseconds since 1970.

        ``now_us`` replaces the server's time, so that tests can step it.
        """
        name = self._name(account, key)
        question = self._question(account, quotas, cost, spend=spend, now_us=now_us)
        packed = await _as_ours(key, self._ask(name, question))
        speaker, used, wait_us, reset_us, clock_us = _ANSWER.unpack(packed)
        quota = quotas[speaker]
        decision = Decision(
            allowed=not wait_us,
            name=quota.name,
            limit=quota.limit,
            window_s=quota.window_s,
            remaining=max(0, quota.limit - int(used)),
            reset_s=reset_us / 1e6,
            retry_after_s=wait_us / 1e6,
            cost=cost,
        )
        return decision, int(clock_us)

    async def reset(self, account: str, key: str) -> None:
        """See Storage. Deletes the key, whatever it holds."""
        await _as_ours(key, self._link().execute("DEL", self._name(account, key)))

    async def keys(self, account: str, most: int) -> list[str]:
        """See Storage.

        Looks through all of the server's keys, of a Cluster through those of one node; a
        thousand in a trip, and MAX_SCANS times at most.
        """
        begin = self._prefix + b"{" + _escaped(account) + b":"
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", begin) + b"*"
        found: list[str] = []
        cursor: bytes | int = 0
        for _ in range(MAX_SCANS):
            asked = self._link().execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            cursor, names = await _as_ours(account, asked)
            found += (name[len(begin) : -1].decode(errors="surrogatepass") for name in names)
            if int(cursor) == 0 or len(found) >= most:
                break
        return found[:most]

    def count(self, account: str) -> None:
        """See Storage: always None."""

    def _link(self) -> "_Link":
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            for other in [one for one in list(self._links) if one.is_closed()]:
                self._links.pop(other, None)
            link = self._links[loop] = self._connect()
        return link

    async def _ask(self, name: bytes, question: bytes) -> Any:  # noqa: ANN401  # redis-py's
        link = self._link()
        try:
            return await link.execute("EVALSHA", SCRIPT_SHA, 1, name, question)
        except NoScriptError:
            # A server that restarted or was flushed; EVAL leaves the script there.
            return await link.execute("EVAL", SCRIPT, 1, name, question)

    def _name(self, account: str, key: str) -> bytes:
        """The Redis key. ``:`` ends the account, ``;`` does before a digest."""
        escaped = _escaped(account)
        # A key may hold anything a header can, as text with lone surrogates.
        raw = key.encode(errors="surrogatepass")
        if len(raw) > MAX_KEY_BYTES:
            digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
            return b"%b{%b;%b}" % (self._prefix, escaped, digest.encode())
        return b"%b{%b:%b}" % (self._prefix, escaped, raw)

    def _question(
        self, account: str, quotas: Sequence[Quota], cost: int, *, spend: bool, now_us: int
    ) -> bytes:
        known = self._windows_us.setdefault(account, {})
        fields: list[float] = []
        for quota in quotas:
            window_us = min(math.ceil(quota.window_s * 1e6), MAX_WINDOW_US)
            known[window_us] = None
            fields += (window_us, min(quota.limit, MAX_COUNT))
        if len(known) > len(quotas):
            for window_us in set(known).difference(fields[::2]):
                fields += (window_us, 0)
        return struct.pack(
            f">BdddB{len(fields)}d",
            spend,
            min(cost, MAX_COUNT + 1),
            now_us,
            len(quotas),
            len(fields) // 2,
            *fields,
        )


def _escaped(account: str) -> bytes:
    if any(mark in account for mark in "%:;"):
        account = account.replace("%", "%25").replace(":", "%3A").replace(";", "%3B")
    return account.encode()


class _Link(Protocol):
    """What one event loop holds open to the server or servers."""

    async def execute(self, *command: str | bytes | int) -> Any:  # noqa: ANN401  # redis-py's
        """The reply; raises what redis-py raises."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class _Pooled:
    """One server, or the master that Sentinels name.

    Connections of redis-py without its pool and client: those take a third of the time of a
    round trip (``bench_ratelimit_redis.py``), and hold a connection after a cancellation.
    """

    def __init__(self, make: Callable[[], AnyConnection], sentinels: Sequence[Redis] = ()) -> None:
        self._make = make
        self._sentinels = sentinels
        self._idle: list[AnyConnection] = []
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)

    async def execute(self, *command: str | bytes | int) -> Any:  # noqa: ANN401  # redis-py's
        async with self._room:
            if self._idle:
                try:
                    return await self._over(self._idle.pop(), command)
                except ConnectionLost:
                    # The server restarted, or closes idle connections: so did it to the others.
                    await self._close_idle()
            return await self._over(await self._fresh(), command)

    async def aclose(self) -> None:
        await self._close_idle()
        for sentinel in self._sentinels:
            await sentinel.connection_pool.disconnect()

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def _fresh(self) -> AnyConnection:
        connection = self._make()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _over(self, connection: AnyConnection, command: tuple[str | bytes | int, ...]) -> Any:  # noqa: ANN401  # redis-py's
        try:
            await connection.send_packed_command(_packed(command))
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            # The server is there and said no, and the reply was read to its end. Another one may
            # have taken its place, though: only about these two would that say the same.
            if isinstance(error, NoScriptError) or "WRONGTYPE" in str(error):
                self._put_back(connection)
            else:
                await connection.disconnect(nowait=True)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._put_back(connection)
        return reply

    def _put_back(self, connection: AnyConnection) -> None:
        if connection.is_connected:
            self._idle.append(connection)


class _Clustered:
    """A Cluster, by redis-py's client, which knows where each slot lives."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster

    async def execute(self, *command: str | bytes | int) -> Any:  # noqa: ANN401  # redis-py's
        return await self._cluster.execute_command(*command)

    async def aclose(self) -> None:
        await self._cluster.aclose()


def _packed(command: Sequence[str | bytes | int]) -> bytes:
    """A command as Redis reads it, in a third of the time that redis-py takes."""
    parts = [b"*%d\r\n" % len(command)]
    for word in command:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


async def _as_ours(key: str, reply: Awaitable[T]) -> T:
    try:
        return await reply
    except (RedisError, RedisClusterException, OSError) as error:
        if "WRONGTYPE" in str(error):
            raise KeyInTheWay(key) from error
        # redis-py's messages hold the address, never the password.
        raise StorageUnavailable(f"Redis: {type(error).__name__}: {error}") from error


def _connector(url: str) -> Callable[[], _Link]:
    """Makes a link when called inside an event loop. Raises ValueError for a bad URL."""
    server = parsed(url)
    if isinstance(server, OneServer):
        return partial(_Pooled, server.make)
    if isinstance(server, Sentinels):
        return lambda: _Pooled(*server.connect())
    return lambda: _Clustered(_cluster(server))


def _cluster(server: Cluster) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in server.hosts]
    # One retry follows a slot to the node that took it over.
    options = server.account | {"retry": Retry(NoBackoff(), 1), "ssl": server.is_tls}
    return RedisCluster(startup_nodes=nodes, **options)
