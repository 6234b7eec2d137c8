"""The kit inside a Starlette application: cameras upload to ``/capture/v1/ingest``.

``uvicorn --app-dir examples --timeout-graceful-shutdown 5 mounted_starlette:app``
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from capturekit import CaptureKit

kit = CaptureKit()  # settings come from CAPTUREKIT_* variables


async def hello(_request: Request) -> PlainTextResponse:
    """Answer for the application itself."""
    return PlainTextResponse("the shop")


app = Starlette(
    lifespan=kit.lifespan,
    routes=[Route("/", hello), Mount("/capture", kit.app)],
)
