"""What the demo asks the server, as any program with an admin token can."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import httpx2
from pydantic import BaseModel, ConfigDict

from capturekit.demo.server import RunningServer, ServerFailed

WAIT_S: Final = 5.0
"""Length of one long poll for a capture's end."""
RETRY_S: Final = 0.1
ENDS: Final = frozenset({"completed", "failed"})


class _Capture(BaseModel):
    model_config = ConfigDict(extra="ignore")

    state: str


class _StockRow(BaseModel):
    model_config = ConfigDict(extra="ignore")

    item_id: str
    location: str
    quantity: int
    codes: list[str]


class _StockPage(BaseModel):
    model_config = ConfigDict(extra="ignore")

    items: list[_StockRow]
    next: str | None


class _Worker(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str
    pid: int


class _Active(BaseModel):
    model_config = ConfigDict(extra="ignore")

    by_worker: dict[str, list[str]]


class _QueueInfo(BaseModel):
    model_config = ConfigDict(extra="ignore")

    active: _Active
    workers: list[_Worker]


@asynccontextmanager
async def admin_client(server: RunningServer) -> AsyncIterator["AdminClient"]:
    """A client that is signed in while the block lasts."""
    headers = {"Authorization": f"Bearer {server.admin_token}"}
    async with httpx2.AsyncClient(
        base_url=server.base_url, headers=headers, timeout=WAIT_S + 5
    ) as http:
        yield AdminClient(http)


class AdminClient:
    """Reads captures and stock over HTTP."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def end_of(self, capture_id: str) -> str:
        """Ask until the capture is ``completed`` or ``failed``, for ever if need be."""
        while True:
            state = await self._state(capture_id)
            if state in ENDS:
                return state
            await anyio.sleep(RETRY_S)

    async def stock(self) -> dict[tuple[str, str], int]:
        """Quantity by location and code, all pages. Raises ServerFailed."""
        try:
            return {
                (row.location, next(iter(row.codes), row.item_id)): row.quantity
                async for row in self._stock_rows()
            }
        except httpx2.HTTPError as error:
            raise ServerFailed(f"the server does not tell its stock: {error!r}") from error

    async def busy_workers(self) -> list[int]:
        """Process ids of the workers that hold a job; none when there was no answer."""
        try:
            response = await self._http.get("/v1/admin/queue-info")
            response.raise_for_status()
        except httpx2.HTTPError:
            return []
        told = _QueueInfo.model_validate_json(response.content)
        return [worker.pid for worker in told.workers if worker.id in told.active.by_worker]

    async def _state(self, capture_id: str) -> str:
        """The state after at most one long poll; empty when there was no answer."""
        try:
            response = await self._http.get(f"/v1/captures/{capture_id}", params={"wait": WAIT_S})
            response.raise_for_status()
        except httpx2.HTTPError:
            return ""
        return _Capture.model_validate_json(response.content).state

    async def _stock_rows(self) -> AsyncIterator[_StockRow]:
        query: dict[str, str] = {}
        while True:
            response = await self._http.get("/v1/inventory", params=query)
            response.raise_for_status()
            page = _StockPage.model_validate_json(response.content)
            for row in page.items:
                yield row
            if page.next is None:
                return
            query = {"cursor": page.next}
