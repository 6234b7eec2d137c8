"""``GET /metrics``: numbers for Prometheus. No ids of captures or tasks, no tokens, no items.

What is counted is summed over all processes of the database, since it was made; only requests'
limits are this server's own. A part that does not answer is left out, and
``capturekit_metrics_part_up`` says so: nothing is ever 0 for want of knowing.
"""

import platform
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeAlias

import anyio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from capturekit import __version__
from capturekit.errors import CaptureKitError
from capturekit.measuring import flush
from capturekit.telemetry import MEASURES, Measure, Tally
from capturekit.web.auth import kit_of

PART_S: Final = 2.0
"""For one part to answer."""

Part: TypeAlias = Callable[[Request], Awaitable[Iterable[Metric]]]


async def metrics(request: Request) -> Response:
    """All numbers there are, now."""
    up = GaugeMetricFamily(
        "capturekit_metrics_part_up", "Whether a part of this page answered.", labels=["part"]
    )
    found: list[Metric] = [_build(), up]
    for name, part in _PARTS.items():
        told = await _told(part, request)
        up.add_metric([name], told is not None)
        found += told or ()
    registry = CollectorRegistry()
    registry.register(_Found(found))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Found(Collector):
    """Metrics that were made already."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


async def _told(part: Part, request: Request) -> list[Metric] | None:
    try:
        with anyio.fail_after(PART_S):
            return [*await part(request)]
    except (TimeoutError, CaptureKitError):
        return None


def _build() -> Metric:
    build = GaugeMetricFamily(
        "capturekit_build_info", "What runs here; always 1.", labels=["version", "python"]
    )
    build.add_metric([__version__, platform.python_version()], 1)
    return build


async def _counted(request: Request) -> Iterable[Metric]:
    kit = kit_of(request)
    await flush(kit.telemetry, kit.store.tallies)
    while await kit.store.tallies.count_ledger():
        pass
    families = {name: _family(name, measure) for name, measure in MEASURES.items()}
    for series, tally in (await kit.store.tallies.all()).items():
        family = families[series.name]
        if isinstance(family, HistogramMetricFamily):
            bounds = MEASURES[series.name].bounds
            family.add_metric(series.labels, [*_cumulated(bounds, tally)], tally.total)
        elif isinstance(family, CounterMetricFamily):
            family.add_metric(series.labels, tally.total)
    return families.values()


def _family(name: str, measure: Measure) -> Metric:
    made = HistogramMetricFamily if measure.bounds else CounterMetricFamily
    return made(f"capturekit_{name}", measure.help, labels=measure.labels)


def _cumulated(bounds: tuple[float, ...], tally: Tally) -> Iterator[tuple[str, float]]:
    sum_ = 0
    for bound, number in zip((*map(str, bounds), "+Inf"), tally.buckets, strict=True):
        sum_ += number
        yield bound, sum_


async def _queue(request: Request) -> Iterable[Metric]:
    kit = kit_of(request)
    stats, workers = await kit.queue.stats(), await kit.queue.workers()
    depth = GaugeMetricFamily("capturekit_queue_depth", "Jobs by state.", labels=["queue", "state"])
    for queue, states in stats.by_queue.items():
        for state, number in states.items():
            depth.add_metric([queue, state.value], number)
    age = GaugeMetricFamily(
        "capturekit_queue_oldest_age_seconds", "Since the oldest job that waits came due."
    )
    age.add_metric([], stats.oldest_age_s or 0.0)
    working = sum(bool(worker.jobs) for worker in workers)
    told = GaugeMetricFamily("capturekit_workers", "Workers that are heard of.", labels=["state"])
    told.add_metric(["busy"], working)
    told.add_metric(["idle"], len(workers) - working)
    return [depth, age, told]


async def _reviews(request: Request) -> Iterable[Metric]:
    counts = await kit_of(request).store.inventory.counts()
    yielded = GaugeMetricFamily("capturekit_proposals_open", "Doubts that wait for a person.")
    yielded.add_metric([], counts.proposals)
    return [yielded]


async def _devices(request: Request) -> Iterable[Metric]:
    seen = GaugeMetricFamily(
        "capturekit_device_last_seen_timestamp_seconds",
        "When a device was last heard of, since 1970.",
        labels=["device"],
    )
    battery = GaugeMetricFamily(
        "capturekit_device_battery_volts", "What it said of its battery.", labels=["device"]
    )
    for device in await kit_of(request).store.devices.all():
        if device.is_revoked:
            continue
        if device.last_seen_at is not None:
            seen.add_metric([device.id], device.last_seen_at)
        if device.battery_v is not None:
            battery.add_metric([device.id], device.battery_v)
    return [seen, battery]


async def _storage(request: Request) -> Iterable[Metric]:
    kit = kit_of(request)
    usage = await kit.storage.usage()
    stored = GaugeMetricFamily("capturekit_storage_bytes", "Bytes kept.", labels=["kind"])
    stored.add_metric(["pictures"], usage.pictures.size_bytes)
    stored.add_metric(["thumbnails"], usage.thumbnails.size_bytes)
    stored.add_metric(["unneeded"], usage.unneeded.size_bytes)
    stored.add_metric(["database"], await kit.database_bytes())
    return [stored]


async def _outbox(request: Request) -> Iterable[Metric]:
    lag = GaugeMetricFamily(
        "capturekit_outbox_lag_seconds", "Age of the oldest event that someone was not told."
    )
    lag.add_metric([], await kit_of(request).store.outbox.lag_s())
    return [lag]


async def _limits(request: Request) -> Iterable[Metric]:
    told = {name: limiter.describe() for name, limiter in request.app.state.limiters.items()}
    decisions = CounterMetricFamily(
        "capturekit_ratelimit_decisions",
        "Requests by what a limit said.",
        labels=["route", "decision"],
    )
    scale = GaugeMetricFamily(
        "capturekit_ratelimit_scale_ratio", "Share of a limit that is in force.", labels=["route"]
    )
    failures = CounterMetricFamily(
        "capturekit_ratelimit_backend_errors", "Decisions that the limits' server did not make."
    )
    for name, limit in told.items():
        decisions.add_metric([name, "allowed"], limit["allowed"])
        decisions.add_metric([name, "refused"], limit["refused"])
        scale.add_metric([name], limit["scale"])
    if pressure := kit_of(request).pressure:
        admission = pressure.describe()["admission"]
        decisions.add_metric(["admission", "allowed"], admission["admitted"])
        decisions.add_metric(["admission", "refused"], admission["refused"])
    servers = [limit["server"] for limit in told.values() if limit["server"]]
    # They share one.
    failures.add_metric([], servers[0]["failures"] if servers else 0)
    return [decisions, scale, failures]


_PARTS: Final[dict[str, Part]] = {
    "counted": _counted,
    "queue": _queue,
    "reviews": _reviews,
    "devices": _devices,
    "storage": _storage,
    "outbox": _outbox,
    "limits": _limits,
}
