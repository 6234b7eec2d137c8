"""Signs what is posted to a webhook, and checks it where it arrives.

As the Standard Webhooks specification says (https://www.standardwebhooks.com), so that its
libraries in other languages check our signatures, too.
"""

import base64
import binascii
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Final

from pydantic import JsonValue

from capturekit.errors import InvalidSignature

TOLERANCE_S: Final = 300.0
"""Seconds by which the clocks of sender and receiver may differ; older is a replay."""

PREFIX: Final = "whsec_"


def sign(secret: str, id: str, at: float, body: bytes) -> dict[str, str]:
    """The three headers that go with the body. ``at`` is in seconds since 1970, UTC.

    Raises ValueError when the secret is none.
    """
    timestamp = str(int(at))
    return {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{_signature(secret, id, timestamp, body)}",
    }


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance_s: float = TOLERANCE_S,
    clock: Callable[[], float] = time.time,
) -> dict[str, JsonValue]:
    """The event that was posted: ``id``, ``kind``, ``at``, ``seq`` and ``data``.

    ``body`` is the request's, byte for byte as it came. An event may come twice: remember the
    ids you have seen. Raises InvalidSignature when it was not signed with this secret within
    ``tolerance_s`` seconds of now, and ValueError when the secret is none.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        id, timestamp = given["webhook-id"], given["webhook-timestamp"]  # noqa: A001  # its name
        signatures = given["webhook-signature"].split(" ")
    except KeyError as error:
        raise InvalidSignature(f"the header {error} is missing") from None
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise InvalidSignature("the header webhook-timestamp is no number")
    expected = f"v1,{_signature(secret, id, timestamp, body)}".encode()
    # All are compared, so that the time it takes tells nothing.
    matches = [hmac.compare_digest(expected, one.encode()) for one in signatures]
    if not any(matches):
        raise InvalidSignature("the signature is not of this secret, time and body")
    if abs(clock() - int(timestamp)) > tolerance_s:
        raise InvalidSignature(f"it was signed more than {tolerance_s:g} s from now")
    event: dict[str, JsonValue] = json.loads(body)
    return event


def _signature(secret: str, id: str, timestamp: str, body: bytes) -> str:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        # Without its text: it may be nearly one.
        raise ValueError(f"a webhook's secret is {PREFIX} and base64 after it")
    signed = f"{id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
