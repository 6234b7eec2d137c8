"""Which addresses of a host may be posted to.

Whoever may add a webhook could otherwise have the server ask what only the server can reach:
a router, a database, a cloud's metadata. The name is resolved once for each post, the addresses
are checked, and the connection goes to one of those checked: a name that means another address
a moment later changes nothing.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread

from capturekit.errors import CaptureKitError

MAX_ADDRESSES: Final = 4
"""Of one host that are tried."""

_EMBEDDING: Final = (
    ipaddress.ip_network("::/96"),
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
)
"""Of IPv6 addresses that stand for IPv4 ones: compatible, translated, 6to4, Teredo."""

_FOR_PROTOCOLS: Final = ipaddress.ip_network("192.0.0.0/24")
"""Python takes some of these for hosts of the internet, one version more than another."""

Lookup: TypeAlias = Callable[..., Sequence[tuple[Any, ...]]]
"""What ``socket.getaddrinfo`` is."""


class NotReachable(CaptureKitError):
    """The host has no address, or none that may be posted to."""


def is_public(address: str) -> bool:
    """Whether the address is one of the internet's, for a single host."""
    ip = ipaddress.ip_address(address)
    is_odd = ip.is_multicast or ip.is_reserved or ip.is_unspecified
    if isinstance(ip, ipaddress.IPv6Address):
        stands_for_another = any(ip in network for network in _EMBEDDING)
        is_odd = is_odd or ip.is_site_local or stands_for_another or ip.ipv4_mapped is not None
    return ip.is_global and not is_odd and ip not in _FOR_PROTOCOLS


async def resolve(
    host: str,
    port: int,
    *,
    allow_private: bool,
    lookup: Lookup = socket.getaddrinfo,
    limiter: anyio.CapacityLimiter | None = None,
) -> list[str]:
    """Addresses of the host that may be posted to, in the resolver's order.

    A resolver that does not answer holds a thread of ``limiter`` until it gives up, also when
    the caller did before. Raises NotReachable.
    """
    try:
        found = await anyio.to_thread.run_sync(
            lambda: lookup(host, port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=limiter,
        )
    except (OSError, UnicodeError) as error:
        raise NotReachable("the host's name is not known") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [one for one in addresses if allow_private or is_public(one)]
    if not allowed:
        raise NotReachable(
            "the host's address is private, and CAPTUREKIT_WEBHOOK_ALLOW_PRIVATE is not set"
        )
    return allowed[:MAX_ADDRESSES]
