"""The pages for people: the dashboard at ``/``, and ``/capture``, which makes a phone a camera."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

_STATIC: Final = Path(__file__).parent / "static"
PAGE: Final = _STATIC / "dashboard.html"
CAPTURE_PAGE: Final = _STATIC / "capture.html"


async def page(request: Request) -> Response:
    """The dashboard. Holds no data: its script asks the API, with the admin's token."""
    del request
    return FileResponse(PAGE)


async def capture_page(request: Request) -> Response:
    """The page that takes pictures with a phone's camera; its script uploads with a device's token.

    What the video shows is no resource by an address, so the page needs no more of the policy for
    content than the others.
    """
    del request
    return FileResponse(CAPTURE_PAGE, headers={"Permissions-Policy": "camera=(self)"})
