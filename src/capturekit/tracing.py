"""Traces from upload through queue to ledger, by OpenTelemetry where a process uses it.

An application that has set up OpenTelemetry finds our spans among its own; ``start`` sets it up
for the command line. Elsewhere a span costs a look-up and nothing is imported.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from capturekit.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""OpenTelemetry's own variable; where it is set, ``start`` sends spans there."""


@contextmanager
def span(name: str, **attributes: str | float) -> Iterator[None]:
    """Time what happens inside; what it raises is noted and goes on."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    named = {f"capturekit.{key}": value for key, value in attributes.items()}
    with tracer.start_as_current_span(name, attributes=named):
        yield


def note(name: str, started_at: float, took_s: float) -> None:
    """A span of what is over, within the present one. Times are seconds, since 1970 the first."""
    if (tracer := _tracer()) is not None:
        noted = tracer.start_span(name, start_time=round(started_at * 1e9))
        noted.end(round((started_at + took_s) * 1e9))


def carried() -> dict[str, str]:
    """The present trace as W3C's headers, to be continued elsewhere; empty without one."""
    carrier: dict[str, str] = {}
    if _tracer() is not None:
        from opentelemetry import propagate

        propagate.inject(carrier)
    return carrier


@contextmanager
def continued(carrier: Mapping[str, str]) -> Iterator[None]:
    """Go on with the trace of these headers, if they hold one."""
    if not carrier or _tracer() is None:
        yield
        return
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def start(service: str) -> Iterator[None]:
    """Send the spans of this process to where OpenTelemetry's variables say, if they do.

    What waits is sent at the end. Raises MissingExtra when they do and it is not installed.
    """
    if not os.environ.get(ENDPOINT):
        yield
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtra(ENDPOINT, "otel") from error
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def _tracer() -> "Tracer | None":
    """The tracer, if anyone in this process uses OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    return trace.get_tracer("capturekit")
