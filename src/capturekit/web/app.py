"""The application's routes and layers."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from capturekit.errors import ConfigError
from capturekit.kit import CaptureKit
from capturekit.ratelimit import RateLimiter, RateLimitMiddleware, open_storage
from capturekit.store import PrincipalKind
from capturekit.web import (
    admin,
    captures,
    dashboard,
    devices,
    exchange,
    frames,
    health,
    inventory,
    items,
    limits,
    metrics,
    movements,
    places,
    problems,
    reviews,
    storage,
    webhooks,
)
from capturekit.web.auth import principal_of
from capturekit.web.edge import Edge
from capturekit.web.events import Streams, stream_events
from capturekit.web.ingest import ingest

Endpoint = Callable[[Request], Awaitable[Response]]
LIMITS_PATH: Final = "/v1/admin/limits"

ROUTES: Final[tuple[tuple[str, str, Endpoint], ...]] = (
    ("POST", "/v1/ingest", ingest),
    ("PUT", "/v1/devices/{device_id}/frames/{name}", frames.put_frame),
    ("GET", "/v1/hello", frames.hello),
    ("POST", "/v1/admin/process-capture/{capture_id}", admin.process_capture),
    ("POST", "/v1/admin/process-pending", admin.process_pending),
    ("GET", "/v1/admin/task-status/{task_id}", admin.task_status),
    ("POST", "/v1/admin/cancel-task/{task_id}", admin.cancel_task),
    ("GET", "/v1/admin/stats", admin.stats),
    ("GET", "/v1/admin/queue-info", admin.queue_info),
    ("GET", "/v1/admin/storage", storage.show_storage),
    ("POST", "/v1/admin/storage/verify", storage.verify_storage),
    ("POST", "/v1/admin/storage/collect", storage.collect_blobs),
    ("POST", "/v1/admin/retention", storage.remove_pictures),
    ("GET", LIMITS_PATH, limits.show_limits),
    ("DELETE", LIMITS_PATH + "/{name}/{key:path}", limits.reset_limit),
    ("GET", "/v1/captures", captures.list_captures),
    ("GET", "/v1/captures/{capture_id}", captures.show_capture),
    ("GET", "/v1/captures/{capture_id}/thumbnail", captures.show_thumbnail),
    ("POST", "/v1/captures/{capture_id}/reprocess", reviews.reprocess),
    ("GET", "/v1/reviews", reviews.list_reviews),
    ("POST", "/v1/reviews/{observation_id}/accept", reviews.accept),
    ("POST", "/v1/reviews/{observation_id}/reject", reviews.reject),
    ("POST", "/v1/reviews/{observation_id}/correct", reviews.correct),
    ("POST", "/v1/reviews/{observation_id}/withdraw", reviews.withdraw),
    ("GET", "/v1/policies", reviews.list_policies),
    ("PUT", "/v1/policies", reviews.set_policy),
    ("DELETE", "/v1/policies", reviews.remove_policy),
    ("GET", "/v1/inventory", inventory.list_stock),
    ("GET", "/v1/inventory/history", inventory.history),
    ("GET", "/v1/inventory/expiring", inventory.list_expiring),
    ("POST", "/v1/inventory/override", movements.override),
    # An item may be named after a code, and a code may be an address: with slashes.
    ("GET", "/v1/inventory/{item_id:path}/why", inventory.why),
    ("POST", "/v1/movements", movements.record_movement),
    ("GET", "/v1/movements/{movement_id}", movements.show_movement),
    ("POST", "/v1/movements/{movement_id}/void", movements.void_movement),
    ("GET", "/v1/items", items.list_items),
    ("POST", "/v1/items", items.add_item),
    ("GET", "/v1/items/{item_id:path}/lots", items.show_lots),
    ("GET", "/v1/items/{item_id:path}/forecast", items.show_forecast),
    ("PUT", "/v1/items/{item_id:path}/codes/{code:path}", items.assign_code),
    ("DELETE", "/v1/items/{item_id:path}/codes/{code:path}", items.release_code),
    ("GET", "/v1/items/{item_id:path}", items.show_item),
    ("PATCH", "/v1/items/{item_id:path}", items.change_item),
    ("GET", "/v1/locations", places.list_locations),
    ("POST", "/v1/locations", places.add_location),
    ("PATCH", "/v1/locations/{location_id}", places.change_location),
    ("GET", "/v1/devices", devices.list_devices),
    ("POST", "/v1/devices", devices.add_device),
    ("GET", "/v1/devices/{device_id}", devices.show_device),
    ("PATCH", "/v1/devices/{device_id}", devices.change_device),
    ("POST", "/v1/devices/{device_id}/rotate", devices.rotate_device),
    ("POST", "/v1/devices/{device_id}/revoke", devices.revoke_device),
    ("PUT", "/v1/devices/{device_id}/views/{location_id}", places.set_view),
    ("GET", "/v1/par-levels", places.list_levels),
    ("PUT", "/v1/par-levels/{location_id}/{item_id:path}", places.set_level),
    ("DELETE", "/v1/par-levels/{location_id}/{item_id:path}", places.remove_level),
    ("GET", "/v1/alerts", places.list_alerts),
    ("POST", "/v1/import", exchange.import_items),
    ("GET", "/v1/export", exchange.export_items),
    ("GET", "/v1/events", stream_events),
    ("GET", "/v1/webhooks", webhooks.list_webhooks),
    ("POST", "/v1/webhooks", webhooks.add_webhook),
    ("GET", "/v1/webhooks/{webhook_id}", webhooks.show_webhook),
    ("DELETE", "/v1/webhooks/{webhook_id}", webhooks.remove_webhook),
    ("POST", "/v1/webhooks/{webhook_id}/enable", webhooks.enable_webhook),
    ("POST", "/v1/webhooks/{webhook_id}/replay", webhooks.replay_webhook),
    ("POST", "/v1/webhooks/{webhook_id}/test", webhooks.test_webhook),
    ("GET", "/v1/webhooks/{webhook_id}/attempts", webhooks.list_attempts),
    ("GET", "/livez", health.livez),
    ("GET", "/readyz", health.readyz),
    ("GET", "/health", health.readyz),
    ("GET", "/metrics", metrics.metrics),
    ("GET", "/", dashboard.page),
)


def create_app(kit: CaptureKit) -> Starlette:
    """The HTTP application over an opened kit, to serve alone or to mount.

    Raises ConfigError when a rate limit's rule cannot be read.
    """
    routes: list[BaseRoute] = [
        Route(path, endpoint, methods=[method]) for method, path, endpoint in ROUTES
    ]
    routes.append(Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")))
    limiters = _limiters(kit)

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Edge),
            Middleware(
                RateLimitMiddleware,
                limits={"*": limiters["ip"]} if "ip" in limiters else {},
                named=limiters,
                exempt=_is_admin_of_limits(kit),
                trusted_proxies=[str(network) for network in kit.settings.trusted_proxies],
                members=_request_id,
            ),
        ],
        exception_handlers=problems.HANDLERS,
    )
    app.state.kit = kit
    app.state.templates = {endpoint: path for _, path, endpoint in ROUTES}
    app.state.limiters = limiters
    app.state.streams = Streams()
    return app


def _limiters(kit: CaptureKit) -> dict[str, RateLimiter]:
    url, rules = kit.settings.redis_url, kit.settings.rate_limits
    try:
        storage = open_storage(url.get_secret_value() if url else "memory://")
    except ValueError as error:
        raise ConfigError(f"CAPTUREKIT_REDIS_URL: {error}") from error

    def scale_of_uploads() -> float:
        # Asked when it is needed: a kit that is mounted is opened after its app was made.
        return kit.pressure.scaling() if kit.pressure else 1.0

    scaled = {"ingest": scale_of_uploads}
    try:
        return {
            name: RateLimiter(rule, name=name, storage=storage, scale=scaled.get(name, _as_written))
            for name, rule in rules.items()
        }
    except ValueError as error:
        raise ConfigError(f"CAPTUREKIT_RATE_LIMITS: {error}") from error


def _as_written() -> float:
    return 1.0


def _is_admin_of_limits(kit: CaptureKit) -> Callable[[Scope], Awaitable[bool]]:
    """Whether an admin asks for limits: what locks out an address must not lock out its remedy."""

    async def exempt(scope: Scope) -> bool:
        if not scope["path"].removeprefix(scope.get("root_path", "")).startswith(LIMITS_PATH):
            return False
        principal = await principal_of(scope, kit)
        return principal is not None and principal.kind is PrincipalKind.ADMIN

    return exempt


def _request_id(scope: Scope) -> Mapping[str, object]:
    return {"id": scope["state"]["request_id"]}
