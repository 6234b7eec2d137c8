"""Who is asking: a device or an admin, by bearer token."""

from starlette.requests import Request
from starlette.types import Scope

from capturekit.errors import NotAuthorized
from capturekit.kit import CaptureKit
from capturekit.ratelimit import spend
from capturekit.store import Principal, PrincipalKind
from capturekit.web.problems import Overloaded, Problem

REFUSAL = "the token is missing, wrong or revoked"
"""One text for all three and for an unknown device: it tells a guesser nothing."""


def kit_of(request: Request) -> CaptureKit:
    """The kit that this app serves."""
    kit: CaptureKit = request.app.state.kit
    return kit


def bearer_token(scope: Scope) -> str | None:
    """The token of the ``Authorization: Bearer`` header, or None."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() or None if scheme.lower() == "bearer" else None
    return None


async def principal_of(scope: Scope, kit: CaptureKit) -> Principal | None:
    """Whose token the request's header carries; asked of the database once a request."""
    state = scope["state"]
    if "principal" not in state:
        token = bearer_token(scope)
        state["principal"] = await kit.store.devices.authenticate(token) if token else None
    principal: Principal | None = state["principal"]
    return principal


async def require_admin(request: Request) -> Principal:
    """The admin who asks. Raises NotAuthorized, or Problem 403 for a device's token."""
    principal = await principal_of(request.scope, kit_of(request))
    if principal is None:
        raise NotAuthorized(REFUSAL)
    if principal.kind is not PrincipalKind.ADMIN:
        raise Problem(403, "forbidden", "a device's token does not open this; use an admin token")
    return principal


async def spend_limit(request: Request, name: str, principal: Principal) -> None:
    """Count the request against the caller's limit of that name, where one is set.

    Raises RateLimitExceeded.
    """
    if name in kit_of(request).settings.rate_limits:
        await spend(request.scope, name, _name(principal))


async def admit(request: Request, principal: Principal) -> None:
    """Let one more picture in, unless it would wait too long. Raises Overloaded.

    Asked last, when nothing else can refuse it: what is admitted counts as a job to come.
    """
    pressure = kit_of(request).pressure
    wait_s = await pressure.admission.admit(_name(principal)) if pressure else None
    if wait_s is not None:
        raise Overloaded(wait_s)


def _name(principal: Principal) -> str:
    return f"{principal.kind}:{principal.device_id or ''}"
