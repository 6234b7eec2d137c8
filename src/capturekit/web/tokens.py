"""Tokens of the API, for programs: made, listed and revoked by admins."""

from pydantic import AwareDatetime
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.store import Role
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Body, Name, parse_body, refusing_values


class NewToken(Body):
    """A token to make. Without ``expires_at`` it holds until it is revoked."""

    name: Name
    role: Role
    expires_at: AwareDatetime | None = None


async def list_tokens(request: Request) -> Response:
    """Every token without its secret, the oldest first."""
    await require(request, Role.ADMIN)
    found = await kit_of(request).store.tokens.all()
    return JSONResponse({"tokens": [one.as_json() for one in found]})


async def add_token(request: Request) -> Response:
    """Make a token; the answer has its secret, this once."""
    await require(request, Role.ADMIN)
    new = await parse_body(request, NewToken)
    expires_at = None if new.expires_at is None else new.expires_at.timestamp()
    with refusing_values():
        made, secret = await kit_of(request).store.tokens.add(
            new.name, new.role, expires_at=expires_at
        )
    return JSONResponse(made.as_json() | {"token": secret}, 201)


async def revoke_token(request: Request) -> Response:
    """End a token at once; said twice it is harmless."""
    await require(request, Role.ADMIN)
    await kit_of(request).store.tokens.revoke(request.path_params["token_id"])
    return Response(status_code=204)
