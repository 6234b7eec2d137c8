"""Who a client is, whatever it claims to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.ratelimit import ClientAddress

PROXY = "10.0.0.1"
TRUSTED = ("10.0.0.0/8", "fd00::/8", "127.0.0.1")


def seen(peer: str, *headers: tuple[str, str], trusted: tuple[str, ...] = TRUSTED) -> str:
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return ClientAddress(trusted)({"client": (peer, 5000), "headers": lines})


def test_the_first_x_forwarded_for_of_anyone_is_not_trusted() -> None:
    header = ("X-Forwarded-For", "198.51.100.1")
    assert seen("203.0.113.9", header) == "203.0.113.9"
    assert seen(PROXY, header, trusted=()) == PROXY


def test_what_a_client_wrote_before_its_proxy_is_not_trusted() -> None:
    assert seen(PROXY, ("X-Forwarded-For", "198.51.100.1, 203.0.113.9")) == "203.0.113.9"
    assert seen(PROXY, ("Forwarded", "for=198.51.100.1, for=203.0.113.9")) == "203.0.113.9"


def test_proxies_in_a_row_are_walked_from_right_to_left() -> None:
    assert seen(PROXY, ("X-Forwarded-For", "192.0.2.1, 203.0.113.9, 10.1.1.1, 10.2.2.2")) == (
        "203.0.113.9"
    )


def test_several_lines_of_a_header_are_one_list() -> None:
    lines = (("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "203.0.113.9"))
    assert seen(PROXY, *lines) == "203.0.113.9"


@pytest.mark.parametrize("form", ["X-Forwarded-For: 10.1.1.1,", "Forwarded: for=10.1.1.1,"])
def test_a_header_of_endless_hops_is_not_read(form: str) -> None:
    name, _, hop = form.partition(": ")
    assert seen(PROXY, (name, hop * 100 + hop.strip(",").replace("10.1", "203.0"))) == "203.0.1.1"
    assert seen(PROXY, (name, hop * 5000 + hop.strip(",").replace("10.1", "203.0"))) == PROXY


def test_when_all_hops_are_trusted_the_farthest_is_the_client() -> None:
    assert seen(PROXY, ("X-Forwarded-For", "10.3.3.3, 10.2.2.2")) == "10.3.3.3"


@pytest.mark.parametrize(
    ("written", "client"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8:1:2::3]:4711", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::3", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
    ],
)
def test_addresses_are_read_as_proxies_write_them(written: str, client: str) -> None:
    assert seen(PROXY, ("X-Forwarded-For", written)) == client
    assert seen(PROXY, ("Forwarded", f'proto=https;For="{written}";by=_x')) == client


def test_ipv6_clients_of_one_network_are_one() -> None:
    assert seen("2001:db8:1:2::3") == seen("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert seen("2001:db8:1:3::3") == "2001:db8:1:3::/64"


@pytest.mark.parametrize(
    "garbage", ["", "unknown", "_hidden", "1.2.3", "1.2.3.4.5", "[::1", "<script>", "²,", ",,,"]
)
def test_garbage_is_never_trusted(garbage: str) -> None:
    assert seen(PROXY, ("X-Forwarded-For", f"192.0.2.1, {garbage}")) == PROXY
    assert seen(PROXY, ("X-Forwarded-For", f"192.0.2.1, {garbage}, 10.2.2.2")) == "10.2.2.2"
    assert seen(PROXY, ("Forwarded", f"for=192.0.2.1, for={garbage}")) == PROXY


def test_a_clients_open_quote_does_not_swallow_what_its_proxy_adds() -> None:
    assert seen(PROXY, ("Forwarded", 'for="192.0.2.1, for=203.0.113.9')) == PROXY


def test_a_quoted_comma_does_not_start_a_hop() -> None:
    value = 'for=203.0.113.9;host="x, for=192.0.2.1;y=z"'
    assert seen(PROXY, ("Forwarded", value)) == "203.0.113.9"


def test_a_quoted_pair_is_read() -> None:
    assert seen(PROXY, ("Forwarded", r'for="203.0.113.\9"')) == "203.0.113.9"


def test_two_headers_that_disagree_name_nobody_but_the_proxy() -> None:
    real = ("X-Forwarded-For", "203.0.113.9")
    assert seen(PROXY, real, ("Forwarded", "for=192.0.2.1")) == PROXY
    assert seen(PROXY, real, ("Forwarded", "for=203.0.113.9")) == "203.0.113.9"


@pytest.mark.parametrize(
    ("header", "client"), [("x-forwarded-for", "203.0.113.9"), ("Forwarded", "192.0.2.1")]
)
def test_of_two_headers_only_the_one_that_proxies_write_is_read(header: str, client: str) -> None:
    headers = [(b"x-forwarded-for", b"203.0.113.9"), (b"forwarded", b"for=192.0.2.1")]
    address = ClientAddress(TRUSTED, header=header)
    assert address({"client": (PROXY, 5000), "headers": headers}) == client
    other = [one for one in headers if one[0] != header.lower().encode()]
    assert address({"client": (PROXY, 5000), "headers": other}) == PROXY


def test_a_header_that_names_no_clients_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="'Via' does not name clients"):
        ClientAddress(TRUSTED, header="Via")


def test_the_same_address_is_read_once_and_the_header_each_time() -> None:
    address = ClientAddress(TRUSTED)
    names = []
    for claim in (b"192.0.2.1", b"192.0.2.2"):
        headers = [(b"x-forwarded-for", claim)]
        names.append(address({"client": (PROXY, 5000), "headers": headers}))
    assert names == ["192.0.2.1", "192.0.2.2"]


def test_a_caller_without_an_address_has_a_name() -> None:
    address = ClientAddress()
    assert address({"client": None}) == address({}) == "unknown"
    assert address({"client": ("testclient", 5000)}) == "testclient"
    assert address({"client": ("", 0)}) == "unknown"


def test_a_trusted_proxy_that_is_no_network_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"'proxy\.local' is not an address or network"):
        ClientAddress(["proxy.local"])


def test_one_string_is_not_taken_for_a_list_of_proxies() -> None:
    with pytest.raises(TypeError, match="not the string"):
        ClientAddress("10.0.0.0/8")


header_text = st.text(st.sampled_from('for=;,"\\ :.[]_0123456789abcdefFOR\t²'), max_size=60)


@given(header_text, header_text)
def test_no_header_crashes_it_or_changes_an_untrusted_peer(one: str, other: str) -> None:
    headers = (("X-Forwarded-For", one), ("Forwarded", other))
    assert seen(PROXY, *headers)
    assert seen("203.0.113.9", *headers) == "203.0.113.9"


@given(header_text)
def test_no_header_of_a_client_changes_what_its_proxy_saw(claim: str) -> None:
    assert seen(PROXY, ("X-Forwarded-For", f"{claim}, 203.0.113.9")) == "203.0.113.9"
    assert seen(PROXY, ("Forwarded", f"{claim}, for=203.0.113.9")) in ("203.0.113.9", PROXY)
