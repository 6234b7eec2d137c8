"""The words of ASGI that the middleware needs, so that it needs no framework."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

# Scopes and messages hold whatever servers and frameworks put there.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def header_lines(scope: Scope, name: bytes) -> list[str]:
    """All values sent under a header's name (in lower case), in their order."""
    return [value.decode("latin-1") for key, value in scope.get("headers", ()) if key == name]


def route_path(scope: Scope) -> str:
    """The path below the mount point, as routers see it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    below = path.removeprefix(root)
    return below if below[:1] in ("", "/") else path
