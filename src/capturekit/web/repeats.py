"""A request with an ``Idempotency-Key`` that is sent again is answered again, and not done again.

The first answer of 2xx is kept for a day under the caller and the key; a refusal changed nothing
and is not kept. It is written after what it tells of, in a transaction of its own: when a server
dies between the two, the same key does it once more after five minutes. Movements, counts and
uploads have their keys in the transaction of their effect, and no such gap.
"""

import base64
import functools
import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from capturekit.store import MAX_IMPORT_BYTES, Turn
from capturekit.web.auth import bearer_token, caller_of, kit_of, session_secret
from capturekit.web.operation import Endpoint
from capturekit.web.problems import Problem
from capturekit.web.query import idempotency_key, read_body

WAIT_S: Final = 10.0
"""How long one waits for the same request that is under way."""

PAUSE_S: Final = 0.05
_TOLD: Final = ("content-type", "etag", "location")
"""Headers that are kept; the others are of the one exchange."""


def done_once(endpoint: Endpoint) -> Endpoint:
    """The endpoint, which does nothing again for a key that it knows."""

    @functools.wraps(endpoint)
    async def once(request: Request) -> Response:
        key = idempotency_key(request)
        secret = bearer_token(request.scope) or session_secret(request.scope)
        if key is None or secret is None:
            return await endpoint(request)
        principal = await caller_of(request.scope, kit_of(request))
        if principal is None:
            return await endpoint(request)
        body = await read_body(request, max_bytes=MAX_IMPORT_BYTES)
        turn = await _turn(request, _digest(principal.credential_id, key), body)
        if turn.sealed is not None:
            return _opened(secret, turn.sealed)
        return await _done(endpoint, Request(request.scope, _body_again(body)), turn, secret)

    return once


async def _turn(request: Request, id: str, body: bytes) -> Turn:
    """This request's turn, or the answer to the first. Raises Problem 409 or 422."""
    scope = request.scope
    digest = _digest(scope["method"], scope["path"], scope["query_string"], body)
    answers = kit_of(request).store.answers
    with anyio.move_on_after(WAIT_S):
        while True:
            turn = await answers.begin(id, digest)
            if not turn.is_same:
                detail = "this Idempotency-Key was used for another request; take a new one"
                raise Problem(422, "key-reused", detail)
            if turn.is_mine or turn.sealed is not None:
                return turn
            await anyio.sleep(PAUSE_S)
    detail = "the same request is still under way; ask again"
    raise Problem(409, "under-way", detail, headers={"Retry-After": "5"})


async def _done(endpoint: Endpoint, request: Request, turn: Turn, secret: str) -> Response:
    answers = kit_of(request).store.answers
    is_kept = False
    try:
        response = await endpoint(request)
        if 200 <= response.status_code < 300:
            await answers.keep(turn, _sealed(secret, response))
            is_kept = True
        return response
    finally:
        if not is_kept:
            with anyio.CancelScope(shield=True):
                await answers.forget(turn)


def _digest(*parts: str | bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        made.update(len(content).to_bytes(8) + content)
    return made.hexdigest()


def _body_again(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _sealed(secret: str, response: Response) -> str:
    """The answer, to be read only with the token or the session of which the database has a hash.

    Some answers show a secret, which must not lie about in the database or in a backup of it.
    """
    headers: Mapping[str, str] = response.headers
    told = {name: headers[name] for name in _TOLD if name in headers}
    body = base64.b64encode(response.body).decode()
    plain = json.dumps([response.status_code, told, body]).encode()
    nonce = secrets.token_bytes(16)
    return base64.b64encode(nonce + _masked(secret, nonce, plain)).decode()


def _opened(secret: str, sealed: str) -> Response:
    content = base64.b64decode(sealed)
    status, headers, body = json.loads(_masked(secret, content[:16], content[16:]))
    return Response(base64.b64decode(body), status, headers)


def _masked(secret: str, nonce: bytes, content: bytes) -> bytes:
    """The content under a mask that follows from secret and nonce, or without it again."""
    # SHAKE256 as a stream cipher. A nonce is used once; a token that we made has 256
    # random bits.
    mask = hashlib.shake_256(nonce + secret.encode()).digest(len(content))
    return bytes(a ^ b for a, b in zip(content, mask, strict=True))
