"""One request to an endpoint: bounded in time and bytes, and without a trace of the key."""

import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import anyio

from capturekit.errors import MissingExtra
from capturekit.steps.describe.errors import ProviderFailed
from capturekit.steps.describe.provider import Key, Provider
from capturekit.steps.describe.reading import clean

MAX_BODY_BYTES: Final = 4 * 2**20
"""Of an answer; 2,000 tokens take 10 kB."""


class NotReached(ProviderFailed):
    """No connection was made, so nothing was asked."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


async def post(provider: Provider, key: Key, body: bytes, timeout_s: float) -> Response:
    """Post to the endpoint's chat completions; ProviderFailed when no whole answer comes in time.

    Redirects are not followed: they would carry picture and key elsewhere.
    """
    httpx2 = _httpx2()
    try:
        with anyio.fail_after(timeout_s):
            return await _post(httpx2, provider, key, body)
    except TimeoutError:
        raise ProviderFailed(f"no answer within {timeout_s:g} s") from None
    except (httpx2.ConnectError, httpx2.InvalidURL) as error:
        raise NotReached(f"not reached: {clean(str(error))}") from error
    # UnicodeError: names of hosts that cannot be encoded.
    except (httpx2.HTTPError, httpx2.StreamError, OSError, UnicodeError) as error:
        raise ProviderFailed(f"the connection failed: {type(error).__name__}") from error


async def _post(httpx2: ModuleType, provider: Provider, key: Key, body: bytes) -> Response:
    headers = {
        **key.headers(),
        "Content-Type": "application/json",
        "Accept": "application/json",
        # A compressed body could unpack to any size.
        "Accept-Encoding": "identity",
    }
    url = f"{provider.base_url.rstrip('/')}/chat/completions"
    async with (
        httpx2.AsyncClient(verify=_tls(), timeout=None) as client,
        client.stream("POST", url, content=body, headers=headers) as response,
    ):
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ProviderFailed("it sent a compressed body, which was not asked for")
        received = bytearray()
        async for chunk in response.aiter_raw():
            received += chunk
            if len(received) > MAX_BODY_BYTES:
                raise ProviderFailed(f"it sent more than {MAX_BODY_BYTES:,} bytes")
        return Response(response.status_code, dict(response.headers), bytes(received))


def _httpx2() -> ModuleType:
    try:
        import httpx2
    except ImportError as error:
        raise MissingExtra("capturekit.steps.describe", "vision") from error
    return httpx2


@functools.cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates takes 90 ms.
    context: ssl.SSLContext = _httpx2().create_ssl_context()
    return context
