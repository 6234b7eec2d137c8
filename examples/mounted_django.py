"""The kit beside a Django project, in one process: ``/capture`` is the kit's, the rest Django's.

``uvicorn --app-dir examples --timeout-graceful-shutdown 5 mounted_django:app``

Django's ASGI handler knows no lifespan, so a Starlette application around both opens the kit.
"""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from starlette.applications import Starlette
from starlette.routing import Mount

from capturekit import CaptureKit

kit = CaptureKit()  # settings come from CAPTUREKIT_* variables


def hello(_request: HttpRequest) -> HttpResponse:
    """Answer for the project itself."""
    return HttpResponse("the shop")


urlpatterns = [path("", hello)]

# A project of your own has these in its settings module.
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of the example")
django.setup()

app = Starlette(
    lifespan=kit.lifespan,
    routes=[Mount("/capture", kit.app), Mount("/", get_asgi_application())],
)
