"""Who is asking, and whether they may."""

from starlette.requests import Request
from starlette.types import Scope

from capturekit.errors import NotAuthorized
from capturekit.kit import CaptureKit
from capturekit.ratelimit import spend
from capturekit.store import Principal, Role
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


async def require(request: Request, role: Role) -> Principal:
    """Who asks, with this role or one that covers it.

    Raises NotAuthorized, or Problem 403 for a device's token and for a lower role.
    """
    principal = await principal_of(request.scope, kit_of(request))
    if principal is None:
        raise NotAuthorized(REFUSAL)
    if principal.role is None:
        raise Problem(403, "forbidden", "a device's token opens nothing but uploads")
    if not principal.role.covers(role):
        detail = f"this takes the role {role}, and {principal.name} has the role {principal.role}"
        raise Problem(403, "forbidden", detail)
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
    return f"{principal.kind}:{principal.name}"
