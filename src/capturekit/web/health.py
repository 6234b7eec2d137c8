"""Is it alive, and can it work?"""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import CaptureKitError
from capturekit.kit import CaptureKit
from capturekit.web.auth import kit_of

CHECK_S: Final = 2.0
"""A part that has not answered by then counts as not working."""


async def livez(request: Request) -> Response:
    """200 while the process answers at all."""
    del request
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """200 when database, schema, queue and blobs work, else 503 with what does not."""
    kit = kit_of(request)
    checks = {name: await _check(check, kit) for name, check in _CHECKS.items()}
    is_ready = all(answer == "ok" for answer in checks.values())
    body = {"status": "ok" if is_ready else "unavailable", "checks": checks}
    return JSONResponse(body, 200 if is_ready else 503)


async def _check(check: Callable[[CaptureKit], Awaitable[object]], kit: CaptureKit) -> str:
    try:
        with anyio.fail_after(CHECK_S):
            await check(kit)
    except TimeoutError:
        return "no answer in time"
    except CaptureKitError as error:
        return type(error).__name__
    return "ok"


async def _queue(kit: CaptureKit) -> object:
    return await kit.queue.stats()


async def _database(kit: CaptureKit) -> object:
    # The end of an index: to count captures would take longer the more there are.
    return await kit.store.outbox.newest()


async def _blobs(kit: CaptureKit) -> object:
    await kit.blobs.check_writable()
    return None


async def _migrations(kit: CaptureKit) -> object:
    await kit.require_head()
    return None


_CHECKS: Final = {
    "database": _database,
    "migrations": _migrations,
    "queue": _queue,
    "blobs": _blobs,
}
