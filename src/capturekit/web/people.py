"""People: who may sign in, and the sessions that they open and end."""

from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated

from pydantic import Field, SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Conflict, NotAuthorized
from capturekit.ratelimit import spend
from capturekit.store import Person, Principal, PrincipalKind, Role, passwords
from capturekit.store.people import SESSION_S
from capturekit.web.auth import (
    SESSION_COOKIE,
    csrf_token,
    kit_of,
    limiters_of,
    require,
    session_secret,
)
from capturekit.web.problems import Overloaded, Problem
from capturekit.web.query import Body, Name, parse_body, refusing_values

WRONG = "no one of this name has this password"
"""One text for an unknown name, a wrong password, and who is disabled."""

BUSY_S = 2.0

Password = Annotated[SecretStr, Field(min_length=1, max_length=passwords.MAX_CHARACTERS)]


NewPassword = Annotated[
    SecretStr,
    Field(min_length=passwords.MIN_CHARACTERS, max_length=passwords.MAX_CHARACTERS),
]


class SignIn(Body):
    """Who signs in."""

    name: Name
    password: Password


class NewPerson(Body):
    """Someone to let in. Without a password one is made."""

    name: Name
    role: Role
    password: NewPassword | None = None


class PersonChange(Body):
    """What may be changed of someone. Another password ends their sessions."""

    role: Role | None = None
    disabled: bool | None = None
    password: NewPassword | None = None


async def sign_in(request: Request) -> Response:
    """Open a session, in a cookie; the answer has the CSRF token that it needs to change things."""
    if request.headers.get("sec-fetch-site") == "cross-site":
        raise Problem(403, "forbidden", "a page of another site cannot sign anyone in here")
    given = await parse_body(request, SignIn)
    people = kit_of(request).store.people
    if people.is_busy:
        raise Overloaded(BUSY_S)
    key = f"name:{given.name}"
    by_name = limiters_of(request.scope).get("login-name")
    if by_name is not None:
        await spend(request.scope, by_name.name, key)
    secret = await people.sign_in(given.name, given.password.get_secret_value())
    if secret is None:
        raise NotAuthorized(WRONG)
    if by_name is not None:
        await by_name.reset(key)
    principal = await people.by_session(secret)
    if principal is None:
        raise NotAuthorized(WRONG)
    answer = JSONResponse(_told(principal, secret), HTTPStatus.CREATED)
    _set_cookie(request, answer, secret, int(SESSION_S))
    return answer


async def show_session(request: Request) -> Response:
    """Who one is here, and the CSRF token of the session."""
    principal = await require(request, Role.VIEWER)
    return JSONResponse(_told(principal, session_secret(request.scope)))


async def sign_out(request: Request) -> Response:
    """End the session. 409 for a token, which has none."""
    principal = await require(request, Role.VIEWER)
    if principal.kind is not PrincipalKind.PERSON:
        raise Conflict("a token has no session; revoke it to end it")
    await kit_of(request).store.people.sign_out(principal)
    answer = Response(status_code=HTTPStatus.NO_CONTENT)
    _set_cookie(request, answer, "", 0)
    return answer


async def list_people(request: Request) -> Response:
    """Everyone who may sign in or might once, by name."""
    await require(request, Role.ADMIN)
    found = await kit_of(request).store.people.all()
    return JSONResponse({"people": [one.as_json() for one in found]})


async def add_person(request: Request) -> Response:
    """Let someone in; a password that is made here is in the answer, this once."""
    await require(request, Role.ADMIN)
    new = await parse_body(request, NewPerson)
    made = None if new.password else passwords.generate()
    password = made or (new.password.get_secret_value() if new.password else "")
    with refusing_values():
        person = await kit_of(request).store.people.add(new.name, new.role, password)
    return JSONResponse(person.as_json() | {"password": made}, HTTPStatus.CREATED)


async def change_person(request: Request) -> Response:
    """Give someone another role or password, or shut them out; nobody does so to themselves."""
    asking = await require(request, Role.ADMIN)
    change = await parse_body(request, PersonChange)
    name = request.path_params["name"]
    is_self = asking.kind is PrincipalKind.PERSON and asking.name == name
    if is_self and (change.disabled or change.role not in (None, Role.ADMIN)):
        raise Conflict("this would shut you out; let another admin do it")
    people = kit_of(request).store.people
    person: Person = await people.change(name, role=change.role, is_disabled=change.disabled)
    if change.password is not None:
        with refusing_values():
            await people.set_password(name, change.password.get_secret_value())
    return JSONResponse(person.as_json())


def _told(principal: Principal, secret: str | None) -> Mapping[str, object]:
    is_person = principal.kind is PrincipalKind.PERSON
    return {
        "kind": principal.kind,
        "name": principal.name,
        "role": principal.role,
        "csrf_token": csrf_token(secret) if is_person and secret else None,
    }


def _set_cookie(request: Request, answer: Response, secret: str, max_age_s: int) -> None:
    answer.set_cookie(
        SESSION_COOKIE,
        secret,
        max_age=max_age_s,
        path=request.scope.get("root_path", "") or "/",
        secure=_is_https(request),
        httponly=True,
        samesite="strict",
    )


def _is_https(request: Request) -> bool:
    """Whether the browser spoke TLS, to us or to a proxy that is believed."""
    if request.url.scheme == "https":
        return True
    if request.client is None:
        return False
    try:
        peer = ip_address(request.client.host)
    except ValueError:
        return False
    if not any(peer in network for network in kit_of(request).settings.trusted_proxies):
        return False
    nearest = request.headers.get("forwarded", "").rpartition(",")[2].lower().replace('"', "")
    said = request.headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
    return said == "https" or "proto=https" in nearest.replace(" ", "").split(";")
