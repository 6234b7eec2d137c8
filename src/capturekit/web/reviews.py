"""What waits for a person, what they decide, the policies, and captures looked at again."""

from collections.abc import Iterable
from http import HTTPStatus

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from capturekit.errors import Unknown
from capturekit.store import NewPolicy, Role, StockChange
from capturekit.web.auth import kit_of, require
from capturekit.web.query import Body, Name, Q, Query, parse_body, parse_query, refusing_values

TASK_URL = "/v1/admin/task-status/{}"


class ListOptions(Query):
    """Query of the lists: ``?limit=&cursor=``."""

    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = None


class ReasonBody(Body):
    """Why it was decided so."""

    reason: Name | None = None


class CorrectionBody(ReasonBody):
    """What it is instead: an item or a code of one, so many units, or both."""

    item: Name | None = None
    quantity: int | None = None


class PolicyScope(Query):
    """Query that names a policy: ``?analyser=&item=``; what is left out is any."""

    analyser: Name | None = None
    item: Name | None = None


class PolicyBody(Body):
    """From when on an observation is believed."""

    threshold: float | None = None
    max_step_per_hour: float | None = None
    is_monotone: bool = False


class ReprocessOptions(Query):
    """Query of reprocess: ``?dry_run=``."""

    dry_run: bool = False


async def list_reviews(request: Request) -> Response:
    """What waits for a person, newest first, a page at a time."""
    await require(request, Role.VIEWER)
    options = parse_query(request, ListOptions)
    with refusing_values():
        page = await kit_of(request).store.inventory.proposals(
            limit=options.limit, cursor=options.cursor
        )
    rows = [one.as_json() for one in page.rows]
    return JSONResponse({"reviews": rows, "next": page.next})


async def accept(request: Request) -> Response:
    """Let an observation count; said twice it is harmless."""
    by = (await require(request, Role.OPERATOR)).name
    body = await _body(request, ReasonBody)
    changes = await kit_of(request).store.inventory.accept(
        _observation_id(request), by, reason=body.reason
    )
    return _answer(request, changes)


async def reject(request: Request) -> Response:
    """Let an observation not count; said twice it is harmless."""
    by = (await require(request, Role.OPERATOR)).name
    body = await _body(request, ReasonBody)
    changes = await kit_of(request).store.inventory.reject(
        _observation_id(request), by, reason=body.reason
    )
    return _answer(request, changes)


async def correct(request: Request) -> Response:
    """Let an observation count as another item or quantity; said twice it is harmless."""
    by = (await require(request, Role.OPERATOR)).name
    body = await _body(request, CorrectionBody)
    with refusing_values():
        changes = await kit_of(request).store.inventory.correct(
            _observation_id(request),
            by,
            item=body.item,
            quantity=body.quantity,
            reason=body.reason,
        )
    return _answer(request, changes)


async def withdraw(request: Request) -> Response:
    """Forget what was decided about an observation; said twice it is harmless."""
    await require(request, Role.OPERATOR)
    changes = await kit_of(request).store.inventory.withdraw(_observation_id(request))
    return _answer(request, changes)


async def list_policies(request: Request) -> Response:
    """The policies by item and analyser, a page at a time."""
    await require(request, Role.VIEWER)
    options = parse_query(request, ListOptions)
    with refusing_values():
        page = await kit_of(request).store.inventory.policies(
            limit=options.limit, cursor=options.cursor
        )
    return JSONResponse({"policies": [one.as_json() for one in page.rows], "next": page.next})


async def set_policy(request: Request) -> Response:
    """Set the policy of ``?analyser=&item=``, in place of the one there."""
    by = (await require(request, Role.ADMIN)).name
    scope, body = parse_query(request, PolicyScope), await parse_body(request, PolicyBody)
    with refusing_values():
        new = NewPolicy(
            scope.analyser or "",
            scope.item or "",
            body.threshold,
            body.max_step_per_hour,
            body.is_monotone,
            by,
        )
        policy, changes = await kit_of(request).store.inventory.set_policy(new)
    return JSONResponse({"policy": policy.as_json(), "changes": _rows(changes)})


async def remove_policy(request: Request) -> Response:
    """Forget the policy of ``?analyser=&item=``."""
    await require(request, Role.ADMIN)
    scope = parse_query(request, PolicyScope)
    changes = await kit_of(request).store.inventory.remove_policy(
        scope.analyser or "", scope.item or ""
    )
    return JSONResponse({"changes": _rows(changes)})


async def reprocess(request: Request) -> Response:
    """Let the present pipeline speak for a capture, or tell what that would change in stock."""
    await require(request, Role.OPERATOR)
    kit, capture_id = kit_of(request), request.path_params["capture_id"]
    options = parse_query(request, ReprocessOptions)
    job_id, changes = await kit.reprocess(capture_id, dry_run=options.dry_run)
    body = {
        "capture_id": capture_id,
        "fingerprint": kit.pipeline.fingerprint,
        "dry_run": options.dry_run,
        "task_id": job_id,
        "changes": _rows(changes),
    }
    if job_id is None:
        return JSONResponse(body)
    location = request.scope.get("root_path", "") + TASK_URL.format(job_id)
    return JSONResponse(body, HTTPStatus.ACCEPTED, {"Location": location})


def _observation_id(request: Request) -> int:
    text: str = request.path_params["observation_id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise Unknown("observation", text)
    return int(text)


async def _body(request: Request, model: type[Q]) -> Q:
    has_body = request.headers.get("content-length", "0") != "0"
    return await parse_body(request, model) if has_body else model()


def _answer(request: Request, changes: Iterable[StockChange]) -> Response:
    return JSONResponse({"observation_id": _observation_id(request), "changes": _rows(changes)})


def _rows(changes: Iterable[StockChange]) -> list[dict[str, object]]:
    return [
        {
            "item_id": change.item_id,
            "location_id": change.location_id,
            "before": change.before,
            "after": change.after,
        }
        for change in changes
    ]
