"""The page at ``/``: stock, pictures and the queue, live."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

PAGE: Final = Path(__file__).parent / "static" / "dashboard.html"


async def page(request: Request) -> Response:
    """The dashboard. Holds no data: its script asks the API, with the admin's token."""
    del request
    return FileResponse(PAGE)
