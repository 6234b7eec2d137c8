"""Signatures, as the Standard Webhooks specification and its libraries make them."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.errors import InvalidSignature
from capturekit.events import sign, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_614_265_330.0
BODY = b'{"test": 2432232314}'


def now() -> float:
    return NOW


def test_it_is_the_signature_of_the_specification() -> None:
    # The example of the reference libraries' own tests.
    headers = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, BODY)

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_it_is_an_hmac_of_id_time_and_body() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = hmac.new(key, b"evt_1.1614265330." + BODY, hashlib.sha256).digest()

    headers = sign(SECRET, "evt_1", NOW, BODY)

    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


@given(st.binary(min_size=1, max_size=64), st.dictionaries(st.text(), st.integers()))
def test_what_was_signed_is_taken(key: bytes, event: dict[str, int]) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps(event).encode()
    headers = sign(secret, "evt_1", NOW, body)

    assert verify(secret, headers, body, clock=now) == event
    with pytest.raises(InvalidSignature):
        verify(secret, headers, body + b" ", clock=now)


def test_names_of_headers_have_no_case() -> None:
    headers = {name.title(): value for name, value in sign(SECRET, "e", NOW, BODY).items()}

    assert verify(SECRET, headers, BODY, clock=now) == {"test": 2432232314}


def test_one_of_several_signatures_is_enough() -> None:
    headers = sign(SECRET, "e", NOW, BODY)
    headers["webhook-signature"] = "v1a,xx v1,YQ== ä " + headers["webhook-signature"]

    verify(SECRET, headers, BODY, clock=now)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "other"},
        {"webhook-timestamp": "1614265331"},
        {"webhook-timestamp": "+1614265330"},
        {"webhook-timestamp": "١٦١٤٢٦٥٣٣٠"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-signature": "v1,"},
        {"webhook-signature": ""},
        {"webhook-signature": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
    ],
)
def test_what_was_changed_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(InvalidSignature):
        verify(SECRET, sign(SECRET, "e", NOW, BODY) | change, BODY, clock=now)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = sign(SECRET, "e", NOW, BODY)
    del headers[name]

    with pytest.raises(InvalidSignature, match=name):
        verify(SECRET, headers, BODY, clock=now)


@pytest.mark.parametrize("drift_s", [-301.0, 301.0])
def test_an_old_one_is_refused(drift_s: float) -> None:
    headers = sign(SECRET, "e", NOW, BODY)

    with pytest.raises(InvalidSignature, match="300 s"):
        verify(SECRET, headers, BODY, clock=lambda: NOW + drift_s)
    verify(SECRET, headers, BODY, clock=lambda: NOW + drift_s, tolerance_s=400)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no base64", "whsec_abc"])
def test_a_secret_that_is_none_is_not_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match="base64") as raised:
        sign(secret, "e", NOW, BODY)

    assert "no base64" not in str(raised.value)
