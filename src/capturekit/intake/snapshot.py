"""A camera's picture at an HTTP address, such as ``http://192.168.1.40/capture``.

What the other side sends is bounded in bytes and in time, and is believed in nothing. The address
may hold a password: it is never logged, and httpx, which logs addresses, is told one without.
"""

import time
from collections.abc import Callable, Generator
from typing import Final
from urllib.parse import unquote

import anyio
import httpx2

from capturekit import __version__
from capturekit.errors import ConfigError
from capturekit.intake.camera import CameraFailed, Shot

DEADLINE_S: Final = 20.0
"""From the look for the host's address to the last byte."""

MAX_REDIRECTS: Final = 3

_STREAM: Final = "multipart/x-mixed-replace"


class SnapshotCamera:
    """Answers GET with a picture.

    Basic and digest authentication are done with the user and password of the URL, basic only
    when the camera asks for it. Redirects are followed to the same host. Raises ConfigError for
    an URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url, self._auth = _parted(url)
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._clock = clock
        # A transport, not a client: it logs no address, keeps no cookies and reads no proxies
        # from the environment. Cameras drop connections that are idle.
        self._transport = httpx2.AsyncHTTPTransport(
            trust_env=False, limits=httpx2.Limits(max_connections=2, max_keepalive_connections=0)
        )

    @property
    def name(self) -> str:
        """Scheme, host and path; a query may hold a password."""
        return str(self._url.copy_with(query=None, fragment=None))

    @property
    def host(self) -> str:
        """Host and port."""
        return self._url.netloc.decode("ascii")

    async def aclose(self) -> None:
        """Close connections."""
        await self._transport.aclose()

    async def shoot(self) -> Shot:
        """The picture that is there now. Raises CameraFailed."""
        try:
            with anyio.fail_after(self._deadline_s):
                return await self._followed()
        except TimeoutError as error:
            raise CameraFailed(f"no whole picture within {self._deadline_s:g} s") from error
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.StreamError) as error:
            # Their texts name hosts and causes, never user or password.
            raise CameraFailed(str(error) or type(error).__name__) from error

    async def _followed(self) -> Shot:
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._got(url)
            try:
                if not response.has_redirect_location:
                    return await self._picture(response)
                url = self._redirected(url, response.headers["location"])
            finally:
                await response.aclose()
        raise CameraFailed(f"more than {MAX_REDIRECTS} redirects")

    async def _got(self, url: httpx2.URL) -> httpx2.Response:
        """The head of the answer, authenticated where that is asked for."""
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": f"capturekit/{__version__}",
            "Accept": "image/*",
            # What unpacks to more than it is long would escape the cap on bytes.
            "Accept-Encoding": "identity",
        }
        flow = self._auth.auth_flow(httpx2.Request("GET", url, headers=headers))
        request = next(flow)
        while True:
            response = await self._transport.handle_async_request(request)
            response.request = request
            try:
                request = flow.send(response)
            except StopIteration:
                return response
            except BaseException:
                await response.aclose()
                raise
            await response.aclose()

    def _redirected(self, url: httpx2.URL, location: str) -> httpx2.URL:
        target = url.join(location)
        is_upgrade = (url.scheme, target.scheme) == ("http", "https")
        is_same = (target.scheme, target.netloc) == (url.scheme, url.netloc)
        if target.host != url.host or not (is_same or is_upgrade):
            raise CameraFailed(f"it points to another host, {target.host or 'none'}; ask that one")
        return target

    async def _picture(self, response: httpx2.Response) -> Shot:
        taken_at = self._clock()
        if response.status_code != httpx2.codes.OK:
            raise CameraFailed(_refusal(response), _retry_after_s(response))
        if response.headers.get("content-type", "").lower().startswith(_STREAM):
            raise CameraFailed("it sends a stream; name it as stream+http://… instead")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise CameraFailed("it sends a packed answer, which was not asked for")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._max_bytes:
                raise CameraFailed(f"the picture has more than {self._max_bytes:,} bytes")
        return Shot(bytes(content), taken_at)


class _NoPassword(httpx2.Auth):
    """Nothing to tell."""


class _Password(httpx2.Auth):
    """Digest or basic, as the camera asks; nothing before it asks."""

    def __init__(self, user: str, password: str) -> None:
        self._digest = httpx2.DigestAuth(user, password)
        self._basic = httpx2.BasicAuth(user, password)

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        flow = self._digest.auth_flow(request)
        response = yield next(flow)
        asked = response.headers.get_list("www-authenticate")
        if response.status_code != httpx2.codes.UNAUTHORIZED:
            return
        if any(one.lower().startswith("digest ") for one in asked):
            try:
                yield flow.send(response)
            except StopIteration:
                return
            except ValueError as error:
                raise CameraFailed("its WWW-Authenticate cannot be read") from error
        elif any(one.lower().startswith("basic") for one in asked):
            yield next(self._basic.auth_flow(request))


def _parted(url: str) -> tuple[httpx2.URL, httpx2.Auth]:
    """The URL without user and password, and what tells them."""
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"the camera's address is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigError("the camera's address is not like http://HOST/PATH")
    bare = parts.copy_with(userinfo=b"", fragment=None)
    if not parts.userinfo:
        return bare, _NoPassword()
    user, _, password = parts.userinfo.decode().partition(":")
    return bare, _Password(unquote(user), unquote(password))


def _refusal(response: httpx2.Response) -> str:
    if response.status_code == httpx2.codes.UNAUTHORIZED:
        return "it answered 401: the address needs USER:PASSWORD@, or they are wrong"
    return f"it answered {response.status_code}"


def _retry_after_s(response: httpx2.Response) -> float:
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isdecimal() and len(value) < 10 else 0.0
