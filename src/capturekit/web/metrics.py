"""``GET /metrics``: numbers for Prometheus. So far those of the limits; no ids, no tokens."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from capturekit.pressure import Pressure
from capturekit.ratelimit import RateLimiter
from capturekit.web.auth import kit_of

PREFIX: Final = "capturekit_ratelimit"


async def metrics(request: Request) -> Response:
    """What was decided since the server started, and how much of each limit is in force."""
    registry = CollectorRegistry()
    registry.register(_Limits(request.app.state.limiters, kit_of(request).pressure))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Limits(Collector):
    """Asked when a page is made: the limiters count for themselves."""

    def __init__(self, limiters: Mapping[str, RateLimiter], pressure: Pressure | None) -> None:
        self._told = {name: limiter.describe() for name, limiter in limiters.items()}
        self._pressure = pressure.describe() if pressure else None

    def collect(self) -> Iterable[Metric]:
        decisions = CounterMetricFamily(
            f"{PREFIX}_decisions", "Requests by what a limit said.", labels=["route", "decision"]
        )
        for route, decision, count in self._decisions():
            decisions.add_metric([route, decision], count)
        scale = GaugeMetricFamily(
            f"{PREFIX}_scale_ratio", "Share of a limit that is in force.", labels=["route"]
        )
        for name, told in self._told.items():
            scale.add_metric([name], told["scale"])
        failures = CounterMetricFamily(
            f"{PREFIX}_backend_errors", "Decisions that the limits' server did not make."
        )
        servers = [told["server"] for told in self._told.values() if told["server"]]
        # They share one.
        failures.add_metric([], servers[0]["failures"] if servers else 0)
        return [decisions, scale, failures]

    def _decisions(self) -> Iterator[tuple[str, str, int]]:
        for name, told in self._told.items():
            yield name, "allowed", told["allowed"]
            yield name, "refused", told["refused"]
        if self._pressure:
            admission = self._pressure["admission"]
            yield "admission", "allowed", admission["admitted"]
            yield "admission", "refused", admission["refused"]
