"""Who is at the other end: the client's address, seen through the proxies one trusts.

Whatever a client writes into a header is a claim. Only what a trusted proxy added to the
right of it counts, so addresses are walked from right to left until one is not trusted.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from capturekit.ratelimit.asgi import Scope, header_lines

NO_ADDRESS = "unknown"
"""The name of callers without an address, on a Unix socket for example: they are one."""

CACHED_PEERS = 4096
"""Addresses of connections that are read once: 0.2 kB each."""

MAX_CLAIM = 8192
"""Characters of a header that are looked at: some hundred hops. A longer one, which would take
up to a second, counts as one that cannot be read."""

_PAIR = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([^\s",;]+|"(?:[^"\\]|\\.)*")[ \t]*([,;]|$)"""
)
"""One ``name=value`` of a Forwarded header and what ends it (RFC 7239, section 4)."""

_Address = IPv4Address | IPv6Address


class ClientAddress:
    """Names a client by its address: the whole of an IPv4, the first 64 bits of an IPv6.

    (Whoever has one IPv6 address has the 2^64 of its network.)

    Without trusted proxies no header is read. Through a trusted one, ``Forwarded`` and
    ``X-Forwarded-For`` are. When both are there and disagree, one was not written by the
    proxy and nothing tells which: the proxy itself is then taken for the client. Such clients
    share one account, so to disagree gains nothing, and those who send no header are not
    touched. Where honest clients come with a header of their own, from a proxy on their side,
    say which ``header`` your proxies write: the other is then not read.

    What is not an address ends the walk at the last hop that was known.

    Args:
        trusted: Addresses and networks of proxies: ``10.0.0.0/8``, ``::1``. What is none
            is a ValueError.
        header: The only one to read, ``"Forwarded"`` or ``"X-Forwarded-For"``, in any case.
    """

    def __init__(self, trusted: Iterable[str] = (), *, header: str | None = None) -> None:
        if isinstance(trusted, str):
            raise TypeError(f"trusted proxies are a list of networks, not the string {trusted!r}")
        if header is not None and header.lower() not in _READERS:
            raise ValueError(f"{header!r} does not name clients; Forwarded and X-Forwarded-For do")
        self._headers = (header.lower(),) if header is not None else tuple(_READERS)
        self._trusted = tuple(_network(text) for text in trusted)
        # To read an address takes 6 µs, as much as the rest of a decision.
        self._peer = lru_cache(maxsize=CACHED_PEERS)(self._peer_of)

    def __call__(self, scope: Scope) -> str:
        """The client's name, like ``192.0.2.7`` or ``2001:db8::/64``. Never raises."""
        client = scope.get("client")
        if not client:
            return NO_ADDRESS
        name, proxy = self._peer(client[0])
        return name if proxy is None else _name(self._seen_through(proxy, scope))

    def _peer_of(self, host: str) -> tuple[str, _Address | None]:
        """The name of who is connected, and its address if it is a trusted proxy."""
        peer = _address(host)
        if peer is None:
            return str(host) or NO_ADDRESS, None
        return _name(peer), peer if self._trusts(peer) else None

    def _seen_through(self, peer: _Address, scope: Scope) -> _Address:
        claims = [_READERS[name](header_lines(scope, name.encode())) for name in self._headers]
        clients = {self._walk(peer, hops) for hops in claims if hops}
        return clients.pop() if len(clients) == 1 else peer

    def _walk(self, peer: _Address, hops: list[str]) -> _Address:
        nearest = peer
        for hop in reversed(hops):
            address = _address(hop)
            if address is None:
                break
            nearest = address
            if not self._trusts(address):
                break
        return nearest

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not an address or network; write 192.0.2.1, 10.0.0.0/8 or fd00::/8"
        ) from error


def _address(text: str) -> _Address | None:
    """An address as proxies write it: perhaps with a port, in brackets if it is IPv6."""
    text = text.strip(" \t")
    if text.startswith("[") and "]" in text:
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _name(address: _Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def _x_forwarded_for(lines: list[str]) -> list[str]:
    text = ",".join(lines)
    if len(text) > MAX_CLAIM:
        return [""]
    return text.split(",") if lines else []


def _forwarded(lines: list[str]) -> list[str]:
    """The ``for`` of each hop, "" where a hop names none; one "" for what does not parse.

    All of it must parse: a client's open quote could otherwise swallow what a proxy added.
    """
    text = ", ".join(lines)
    hops: list[str] = []
    hop, at = "", 0
    if len(text) > MAX_CLAIM:
        return [""]
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            return [""]
        name, value, end = pair.groups()
        if name.lower() == "for":
            hop = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
        if end != ";":
            hops.append(hop)
            hop = ""
        at = pair.end()
    return hops


_READERS: Final[Mapping[str, Callable[[list[str]], list[str]]]] = {
    "forwarded": _forwarded,
    "x-forwarded-for": _x_forwarded_for,
}
"""The headers that name clients, and what reads their lines: the hops, the farthest first."""
