import base64

import httpx2
import pytest
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPSignatureKeyResolver,
    algorithms,
)

from capturekit.web.message_signatures import (
    BadSignature,
    MessageSignature,
    holds,
    read_signature,
    signature_base,
)

KEY = base64.b64decode(
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
)
"""The shared secret of RFC 9421, B.1.5."""

MESSAGE = {
    "date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "@authority": "example.com",
    "content-type": "application/json",
}
PARAMETERS = (
    '("@method" "content-digest");created=1618884473;keyid="cam";alg="hmac-sha256";nonce="n"'
)


def test_the_vector_of_rfc_9421_b_2_5_holds() -> None:
    signature = MessageSignature(
        ("date", "@authority", "content-type"),
        "test-shared-secret",
        1618884473,
        "",
        base64.b64decode("pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="),
        '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"',
    )

    base = signature_base(signature, MESSAGE.get)

    assert holds(KEY, base, signature.value)
    assert not holds(KEY[:-1], base, signature.value)
    assert not holds(KEY, base + b" ", signature.value)
    assert not holds(KEY, base, signature.value[:-1])


class _Keys(HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id: str) -> bytes:
        assert key_id == "cam"
        return KEY


def test_what_another_library_signs_holds() -> None:
    meta = {"capturekit-meta": "age=37, vbat=3912"}
    url = "http://server:8000/v1/devices/cam/frames/a-1"
    request = httpx2.Request("PUT", url, headers=meta, content=b"x")
    signer = HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=_Keys())
    covered = ("@method", "@path", "@authority", *meta, "content-length", "content-digest")
    signer.sign(request, key_id="cam", nonce="n", covered_component_ids=covered, body=b"x")
    values = {
        "@method": "PUT",
        "@path": "/v1/devices/cam/frames/a-1",
        "@authority": "server:8000",
        "content-length": "1",
        "content-digest": request.headers["content-digest"],
        **meta,
    }

    signature = read_signature(request.headers["signature-input"], request.headers["signature"])

    assert signature.components == covered
    assert holds(KEY, signature_base(signature, values.get), signature.value)
    values["@path"] += "x"
    assert not holds(KEY, signature_base(signature, values.get), signature.value)


def test_a_signature_is_read_as_it_was_signed() -> None:
    signature = read_signature(f"sig={PARAMETERS}", "sig=:AQI=:")

    assert signature.components == ("@method", "content-digest")
    assert (signature.keyid, signature.created, signature.nonce) == ("cam", 1618884473, "n")
    assert signature.value == b"\x01\x02"
    assert signature.parameters == PARAMETERS


def test_spaces_between_components_are_not_signed() -> None:
    spaced = PARAMETERS.replace('" "', '"    "')

    assert read_signature(f"sig={spaced}", "sig=:AQI=:").parameters == PARAMETERS


def test_what_is_covered_must_be_there() -> None:
    signature = read_signature(f"sig={PARAMETERS}", "sig=:AQI=:")
    with pytest.raises(BadSignature, match="content-digest"):
        signature_base(signature, {"@method": "PUT"}.get)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (f"sig={PARAMETERS}", ""),
        ("", "sig=:AQI=:"),
        (f"sig={PARAMETERS}", "other=:AQI=:"),
        (f"sig={PARAMETERS}, b={PARAMETERS}", "sig=:AQI=:, b=:AQI=:"),
        (f"sig={PARAMETERS}", 'sig="text"'),
        (f"sig={PARAMETERS}", "sig=:???"),
        ("sig=1", "sig=:AQI=:"),
        (f"sig={PARAMETERS.replace('hmac-sha256', 'hmac-sha1')}", "sig=:AQI=:"),
        ('sig=("@method");created="1";keyid="cam";alg="hmac-sha256";nonce="n"', "sig=:AQI=:"),
        ('sig=("@method");created=1;keyid="cam";alg="hmac-sha256"', "sig=:AQI=:"),
        ('sig=("@method");created=1;alg="hmac-sha256";nonce="n"', "sig=:AQI=:"),
        ('sig=("@method";req);created=1;keyid="cam";alg="hmac-sha256";nonce="n"', "sig=:AQI=:"),
        (f"sig={PARAMETERS.replace('content-digest', 'Content-Digest')}", "sig=:AQI=:"),
        (f"sig={PARAMETERS.replace('content-digest', '@query')}", "sig=:AQI=:"),
        (f"sig={PARAMETERS.replace('content-digest', '@method')}", "sig=:AQI=:"),
        ("sig=" + "(" * 3000, "sig=:AQI=:"),
    ],
)
def test_what_is_no_signature_is_refused(given: str, value: str) -> None:
    with pytest.raises(BadSignature):
        read_signature(given, value)
