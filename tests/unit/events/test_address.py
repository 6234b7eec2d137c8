"""Which addresses may be posted to."""

import socket

import pytest

from capturekit.events.address import MAX_ADDRESSES, NotReachable, is_public, resolve

pytestmark = pytest.mark.anyio

REFUSED = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.8.8.8 169.254.169.254 172.16.0.1 172.31.255.255
192.0.0.8 192.0.2.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1
255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b:1::1
100::1 2001::1 2001:db8::1 2002:7f00:1:: fc00::1 fd12::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1
"""


@pytest.mark.parametrize("address", REFUSED.split())
def test_what_only_the_server_reaches_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111"])
def test_a_host_of_the_internet_is_not(address: str) -> None:
    assert is_public(address)


def answers(*addresses: str) -> list[tuple[object, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in addresses]


async def test_only_what_is_public_is_left_of_a_host() -> None:
    found = await resolve(
        "h", 80, allow_private=False, lookup=lambda *_, **__: answers("10.0.0.1", "1.1.1.1")
    )

    assert found == ["1.1.1.1"]


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "0x7f.1", "2130706433", "0", "017700000001", "::1", "[::1]"]
)
async def test_loopback_is_refused_however_it_is_spelt(host: str) -> None:
    with pytest.raises(NotReachable):
        await resolve(host, 80, allow_private=False)


async def test_it_is_allowed_where_that_is_set() -> None:
    assert await resolve("127.0.0.1", 80, allow_private=True) == ["127.0.0.1"]


async def test_a_name_that_is_not_known_is_refused() -> None:
    with pytest.raises(NotReachable, match="not known"):
        await resolve("x" * 300, 80, allow_private=True)


async def test_only_some_of_many_addresses_are_tried() -> None:
    many = [f"1.1.1.{number}" for number in range(100)]

    found = await resolve("h", 80, allow_private=False, lookup=lambda *_, **__: answers(*many))

    assert found == many[:MAX_ADDRESSES]
