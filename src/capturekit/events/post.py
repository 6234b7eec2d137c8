"""Posts one event to one webhook, and says what came of it; whatever the other side does."""

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Self

import anyio
import httpx2

from capturekit import __version__
from capturekit.events.address import Lookup, NotReachable, resolve
from capturekit.events.signature import sign
from capturekit.store import Event, Webhook

TIMEOUT_S: Final = 10.0
"""From the look for the host's address to the head of the answer."""

CONNECT_S: Final = 4.0
"""For one address of the host; the next is tried after it."""

MAX_ANSWER_BYTES: Final = 16 * 1024
"""Of an answer's body that are read; nothing is done with them."""

ANSWER_S: Final = 1.0
"""For the body of an answer, before the connection is closed."""

IDLE_S: Final = 5.0
"""Seconds for which a connection stays open for the next event."""

GONE: Final = 410
"""The receiver's word for: never again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one post."""

    status: int | None
    """None when no answer came."""
    error: str | None
    """Why the event was not taken; None when it was."""
    took_ms: float
    retry_after_s: float = 0.0
    """What the receiver asked for."""


class Poster:
    """The connection to one webhook. An async context manager.

    It follows no redirects, keeps no cookies, uses no proxies of the environment, and logs
    nothing: an address may hold a secret.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        allow_private: bool,
        lookup: Lookup = socket.getaddrinfo,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = httpx2.AsyncHTTPTransport(
            verify=tls,
            trust_env=False,
            limits=httpx2.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S
            ),
        )
        self._allow_private = allow_private
        self._lookup = lookup
        # Its own, so that a resolver that hangs for one webhook leaves the others threads.
        self._limiter = anyio.CapacityLimiter(1)
        self._timeout_s = timeout_s
        self._clock = clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._transport.aclose()

    async def post(self, webhook: Webhook, event: Event) -> Answer:
        """Post the event; any answer of 200 to 299 means that it was taken."""
        began = time.perf_counter()
        status, retry_after_s, error = None, 0.0, None
        try:
            with anyio.fail_after(self._timeout_s):
                response = await self._send(webhook, event)
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
        except (NotReachable, httpx2.TransportError) as trouble:
            error = str(trouble) or type(trouble).__name__
        except httpx2.InvalidURL:
            error = "the address is none"
        else:
            status = response.status_code
            retry_after_s = _retry_after(response.headers.get("retry-after"), self._clock())
            error = None if response.is_success else f"answered {status}"
            await _finish(response)
        return Answer(status, error, 1000 * (time.perf_counter() - began), retry_after_s)

    async def _send(self, webhook: Webhook, event: Event) -> httpx2.Response:
        url = httpx2.URL(webhook.url)
        body = json.dumps(event.envelope(), separators=(",", ":")).encode()
        headers = {
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            "User-Agent": f"capturekit/{__version__}",
            **sign(webhook.secret, event.id, self._clock(), body),
        }
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await resolve(
            url.host,
            port,
            allow_private=self._allow_private,
            lookup=self._lookup,
            limiter=self._limiter,
        )
        for number, address in enumerate(addresses, 1):
            request = httpx2.Request(
                "POST",
                # To the address that was checked; the name stays in Host and in TLS.
                url.copy_with(host=address),
                headers=headers,
                content=body,
                extensions={"sni_hostname": url.host, "timeout": {"connect": CONNECT_S}},
            )
            try:
                return await self._transport.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise NotReachable("the host has no address")


async def _finish(response: httpx2.Response) -> None:
    """Read the rest of a short answer, so that the connection may be used again."""
    left = MAX_ANSWER_BYTES
    # What breaks now changes nothing: the head was the answer.
    with contextlib.suppress(httpx2.TransportError), anyio.move_on_after(ANSWER_S):
        async for chunk in response.aiter_raw():
            left -= len(chunk)
            if left < 0:
                break
    with anyio.CancelScope(shield=True):
        await response.aclose()


def _retry_after(value: str | None, now: float) -> float:
    """Seconds from now that the header asks for, 0 when it is missing or cannot be read."""
    if value is None:
        return 0.0
    try:
        if value.strip().isdecimal():
            return float(value)
        at = parsedate_to_datetime(value)
        return max(0.0, at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0
