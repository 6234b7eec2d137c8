"""What the URL of a Redis or Valkey server names: one server, Sentinels, or a Cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

CONNECT_TIMEOUT_S = 5.0
"""For the socket. A call's own deadline, which is shorter, cancels a connection too."""

AnyConnection: TypeAlias = Any
"""An AbstractConnection of redis-py, half of whose methods have no types."""


@dataclass(frozen=True, slots=True)
class OneServer:
    """A server with a name of its own."""

    make: Callable[[], AnyConnection]
    """A connection, not connected yet."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """The server that Sentinels name as the master."""

    hosts: list[tuple[str, int]]
    service: str
    asked: dict[str, Any]
    account: dict[str, Any]

    def connect(self) -> tuple[Callable[[], AnyConnection], Sequence[Redis]]:
        """What makes connections to the master, and the clients that ask for it.

        Call it inside an event loop, and disconnect the clients' pools in the end.
        """
        sentinel = Sentinel(self.hosts, sentinel_kwargs=self.asked)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(self.service, **self.account)
        return master.connection_pool.make_connection, sentinel.sentinels


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes of a Cluster, of which one is asked for the others."""

    hosts: list[tuple[str, int]]
    account: dict[str, Any]
    is_tls: bool

    def make(self, host: str, port: int) -> AnyConnection:
        """A connection to one node, not connected yet."""
        kind = SSLConnection if self.is_tls else Connection
        return kind(host=host, port=port, **self.account)


def options() -> dict[str, Any]:
    """Of every connection: one try, and no timeout but the caller's."""
    # redis-py's own: ten retries, and a timeout on each of them. On a frozen server that
    # adds up to 14 s; here the caller's deadline is the only one.
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
    }


def parsed(url: str) -> OneServer | Sentinels | Cluster:
    """What the URL names; nothing is connected.

    ``redis://``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``,
    ``redis+sentinel://host:port,host2:port/service/db`` or
    ``redis+cluster://host:port,host2:port``. User, password and options as redis-py reads
    them; a Sentinel's own password is ``?sentinel_password=``. Raises ValueError for anything
    else, without repeating what may hold a password.
    """
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.replace("valkey", "redis").partition("+")
        if kind == "sentinel" and scheme == "redis":
            return _sentinels(parts)
        if kind == "cluster" and scheme in ("redis", "rediss"):
            account = options() | _account(parts)
            return Cluster(_hosts(parts, 6379), account, is_tls=scheme == "rediss")
        if not kind and scheme in ("redis", "rediss", "unix"):
            if scheme != "unix":
                # redis-py takes what is no number for database 0.
                int(parts.path.strip("/") or 0)
            return _one_server(parts._replace(scheme=scheme).geturl())
    except (ValueError, TypeError, LookupError):
        # Neither the URL nor what Python says about it is repeated: both may hold a password.
        pass
    raise ValueError("a URL that is not as RedisStorage or RedisQueue says; it is not shown here")


def _one_server(url: str) -> OneServer:
    pool = ConnectionPool.from_url(url, **options())
    make: Callable[[], AnyConnection] = pool.make_connection
    make()  # Options that it does not know are found here, not at the first call.
    return OneServer(make)


def _sentinels(parts: SplitResult) -> Sentinels:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel's URL ends with the name of the service")
    account = options() | _account(parts) | {"db": int(database or 0)}
    asked = {name.removeprefix("sentinel_"): text for name, text in _query(parts).items()}
    return Sentinels(_hosts(parts, 26379), service, options() | asked, account)


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    hosts = []
    for address in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{address}")
        if not one.hostname:
            raise ValueError("an address without a host")
        hosts.append((one.hostname, one.port or default_port))
    return hosts


def _account(parts: SplitResult) -> dict[str, Any]:
    userinfo, has_account, _ = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    named = {"username": unquote(user), "password": unquote(password)}
    return {name: text for name, text in named.items() if text} if has_account else {}


def _query(parts: SplitResult) -> dict[str, str]:
    known = ("sentinel_username", "sentinel_password")
    return {name: texts[-1] for name, texts in parse_qs(parts.query).items() if name in known}
