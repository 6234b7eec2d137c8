"""Webhooks: addresses that events are posted to. ``capturekit.events`` does the posting."""

from typing import Self

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.events.address import NotReachable
from capturekit.events.rows import attempt_row, webhook_row
from capturekit.store import Role
from capturekit.web.auth import kit_of, require
from capturekit.web.problems import Problem
from capturekit.web.query import Body, Time, parse_body


class _Since(Body):
    """From where on: past a number, or since a time."""

    after: int | None = Field(default=None, ge=0, le=2**63 - 1)
    since: Time | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.after is not None and self.since is not None:
            raise ValueError("give after or since, not both")
        return self


class NewWebhook(_Since):
    """A webhook to add. Without ``after`` and ``since`` it is told what happens from now on."""

    url: str
    kinds: list[str] = Field(default=[], max_length=100)


class Replay(_Since):
    """What to post once more: all past the number ``after``, or all since a time."""

    @model_validator(mode="after")
    def _is_given(self) -> Self:
        if self.after is None and self.since is None:
            raise ValueError("give after, a number, or since, a time")
        return self


async def list_webhooks(request: Request) -> Response:
    """Every webhook, the oldest first; without its secret."""
    await require(request, Role.ADMIN)
    found = await kit_of(request).store.webhooks.all()
    return JSONResponse({"webhooks": [webhook_row(one) for one in found]})


async def add_webhook(request: Request) -> Response:
    """Post events to an address; the answer has its secret, this once."""
    await require(request, Role.ADMIN)
    new = await parse_body(request, NewWebhook)
    try:
        webhook = await kit_of(request).tellers.add_webhook(
            new.url, kinds=tuple(new.kinds), after=await _after(request, new)
        )
    except (ValueError, NotReachable) as error:
        raise Problem(422, "invalid-input", str(error)) from error
    row = webhook_row(webhook) | {"secret": webhook.secret}
    root = request.scope.get("root_path", "")
    return JSONResponse(row, 201, {"Location": f"{root}/v1/webhooks/{webhook.id}"})


async def show_webhook(request: Request) -> Response:
    """One webhook, without its secret."""
    await require(request, Role.ADMIN)
    return JSONResponse(webhook_row(await kit_of(request).store.webhooks.get(_id(request))))


async def remove_webhook(request: Request) -> Response:
    """Post nothing more to it, and forget it."""
    await require(request, Role.ADMIN)
    await kit_of(request).store.webhooks.remove(_id(request))
    return Response(status_code=204)


async def enable_webhook(request: Request) -> Response:
    """Post to it again at once, beginning with what it missed."""
    await require(request, Role.ADMIN)
    return JSONResponse(webhook_row(await kit_of(request).store.webhooks.enable(_id(request))))


async def replay_webhook(request: Request) -> Response:
    """Post events once more; what was pruned is not."""
    await require(request, Role.ADMIN)
    after = await _after(request, await parse_body(request, Replay)) or 0
    webhook = await kit_of(request).store.webhooks.replay(_id(request), after=after)
    return JSONResponse(webhook_row(webhook))


async def test_webhook(request: Request) -> Response:
    """Post an event ``webhook.test`` now, and tell what came of it."""
    await require(request, Role.ADMIN)
    answer = await kit_of(request).tellers.test_webhook(_id(request))
    return JSONResponse(
        {"status": answer.status, "error": answer.error, "took_ms": round(answer.took_ms, 1)}
    )


async def list_attempts(request: Request) -> Response:
    """The newest tries to deliver, at most 100."""
    await require(request, Role.ADMIN)
    found = await kit_of(request).store.webhooks.attempts(_id(request))
    return JSONResponse({"attempts": [attempt_row(one) for one in found]})


async def _after(request: Request, start: _Since) -> int | None:
    if start.since is not None:
        return await kit_of(request).store.outbox.before(start.since.timestamp())
    return start.after


def _id(request: Request) -> str:
    webhook_id: str = request.path_params["webhook_id"]
    return webhook_id
