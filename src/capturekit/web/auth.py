"""Who is asking, and whether they may.

Programs and devices send a token in each request; people have a session, in a cookie that their
browser sends by itself. A request that changes something therefore needs more from them: a header
that only a page of ours can set.
"""

import hashlib
import hmac
import re
from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.requests import Request
from starlette.types import Scope

from capturekit.errors import NotAuthorized
from capturekit.kit import CaptureKit
from capturekit.ratelimit import RateLimiter, spend
from capturekit.store import Principal, PrincipalKind, Role
from capturekit.web.problems import Overloaded, Problem

SESSION_COOKIE: Final = "capturekit_session"
CSRF_FIELD: Final = "X-CSRF-Token"
HARMLESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

FAILURES: Final = "auth-failures"
"""The limit on wrong tokens from one address."""

_OURS: Final = re.compile(r"ck_[a-z]+_[A-Za-z0-9_-]{43}")
"""A token that was made here: no guess will ever be one. One that was chosen may be short."""

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
        state["principal"] = await by_token(scope, kit, token) if token else None
    principal: Principal | None = state["principal"]
    return principal


async def by_token(scope: Scope, kit: CaptureKit, token: str) -> Principal | None:
    """Whose token this is. Raises RateLimitExceeded after too many wrong ones from the address.

    Then what could be a guess is not even looked up. A token of our making is: cameras whose
    neighbour at the same address lost its token go on.
    """
    if not _OURS.fullmatch(token) and not await _may_fail(scope):
        await spend_by_address(scope, FAILURES)
    principal = await kit.store.devices.authenticate(token)
    if principal is None:
        await spend_by_address(scope, FAILURES)
    return principal


async def spend_by_address(scope: Scope, name: str) -> None:
    """Count the request against its address, where that limit is set. Raises RateLimitExceeded."""
    if name in limiters_of(scope):
        await spend(scope, name, _address(scope))


async def _may_fail(scope: Scope) -> bool:
    limiter = limiters_of(scope).get(FAILURES)
    return limiter is None or (await limiter.peek(_address(scope))).allowed


def limiters_of(scope: Scope) -> dict[str, RateLimiter]:
    """The limits that are set, by name."""
    limiters: dict[str, RateLimiter] = scope["app"].state.limiters
    return limiters


def _address(scope: Scope) -> str:
    return f"ip:{scope['app'].state.address(scope)}"


def session_secret(scope: Scope) -> str | None:
    """What the cookie of a session holds, if there is one."""
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(SESSION_COOKIE)
            except CookieError:
                return None
            return found.value or None if found else None
    return None


def csrf_token(secret: str) -> str:
    """What requests of this session must send to change something; tells nothing of its secret."""
    return hmac.new(secret.encode(), b"capturekit csrf", hashlib.sha256).hexdigest()


async def caller_of(scope: Scope, kit: CaptureKit) -> Principal | None:
    """Who asks, by token, or where there is none by session."""
    secret = None if bearer_token(scope) else session_secret(scope)
    if secret is None:
        return await principal_of(scope, kit)
    return await kit.store.people.by_session(secret)


async def is_still_in(scope: Scope, kit: CaptureKit) -> bool:
    """Whether the token or session holds still, for a request that lasts."""
    scope["state"].pop("principal", None)
    return await caller_of(scope, kit) is not None


async def require(request: Request, role: Role) -> Principal:
    """Who asks, with this role or one that covers it.

    Raises NotAuthorized, or Problem 403 for a device's token, for a lower role, and where a
    session would change something without its CSRF token.
    """
    principal = await caller_of(request.scope, kit_of(request))
    if principal is None:
        raise NotAuthorized(REFUSAL)
    if principal.role is None:
        raise Problem(403, "forbidden", "a device's token opens nothing but uploads")
    if not principal.role.covers(role):
        detail = f"this takes the role {role}, and {principal.name} has the role {principal.role}"
        raise Problem(403, "forbidden", detail)
    if principal.kind is PrincipalKind.PERSON and request.method not in HARMLESS:
        _require_csrf(request)
    return principal


def _require_csrf(request: Request) -> None:
    wanted = csrf_token(session_secret(request.scope) or "")
    given = request.headers.get(CSRF_FIELD, "")
    if not hmac.compare_digest(given.encode(), wanted.encode()):
        detail = f"send the session's csrf_token as {CSRF_FIELD}; GET /v1/session tells it"
        raise Problem(403, "csrf", detail)


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
