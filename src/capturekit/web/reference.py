"""What the API is, for programs and for people."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from capturekit.web.openapi import document

PAGE: Final = Path(__file__).parent / "static" / "reference.html"


async def show_openapi(request: Request) -> Response:
    """This description of the API, OpenAPI 3.1."""
    told = document(request.app.state.operations)
    return JSONResponse(told | {"servers": [{"url": request.scope.get("root_path") or "/"}]})


async def show_reference(request: Request) -> Response:
    """The same as a page to read. Needs no network but this server."""
    del request
    return FileResponse(PAGE)
