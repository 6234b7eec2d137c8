"""What cameras should do: set by people, told to cameras on the answers to their uploads."""

import re
from typing import Final, cast

import http_sf
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.store import Configuration, DeviceConfig, Principal, Role
from capturekit.web.auth import kit_of, require
from capturekit.web.query import parse_body

_TAG: Final = re.compile(r'"v(\d{1,9})"')
_NO_VERSION: Final = -1
"""For a tag that none of ours is."""


async def show_config(request: Request) -> Response:
    """What a device should do; its number is also the ETag."""
    await require(request, Role.ADMIN)
    device_id = request.path_params["device_id"]
    return _answer(device_id, await kit_of(request).store.fleet.configuration(device_id))


async def set_config(request: Request) -> Response:
    """Let a device do something else; 412 when ``If-Match`` names another version."""
    await require(request, Role.ADMIN)
    config = await parse_body(request, DeviceConfig)
    device_id = request.path_params["device_id"]
    configuration = await kit_of(request).store.fleet.configure(
        device_id, config, if_version=_wanted_version(request)
    )
    return _answer(device_id, configuration)


def config_field(principal: Principal, known: int | None) -> dict[str, str]:
    """``Capturekit-Config`` for a device that has not this version; no field for one that has.

    ``known`` is the version that it says it has. Another than ours is replaced even when it is
    greater: ours may be a backup's.
    """
    configuration = principal.configuration
    if configuration is None or principal.device_id is None or configuration.version == known:
        return {}
    told = configuration.for_device(principal.device_id)
    # An item is a value and its parameters. The library's types do not name what it takes.
    items = cast("http_sf.DictionaryType", {word: (value, {}) for word, value in told.items()})
    return {"Capturekit-Config": http_sf.ser(items)}


def _answer(device_id: str, configuration: Configuration) -> Response:
    body = {"device_id": device_id, **configuration.as_json()}
    return JSONResponse(body, headers={"ETag": f'"v{configuration.version}"'})


def _wanted_version(request: Request) -> int | None:
    header = request.headers.get("if-match")
    if header is None or header.strip() == "*":
        return None
    found = _TAG.fullmatch(header.strip())
    return int(found[1]) if found else _NO_VERSION
