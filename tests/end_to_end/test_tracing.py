"""One trace from a camera's request through the queue and a worker to the ledger."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from capturekit.logs import Ids, JsonLines, about
from tests.made_pictures import picture
from tests.servers import running_server, running_worker

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._come = threading.Condition()

    def take(self, body: bytes) -> None:
        told = ExportTraceServiceRequest.FromString(body)
        with self._come:
            for resource in told.resource_spans:
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
            self._come.notify_all()

    def named(self, name: str) -> Span:
        """The span of this name, once it is there."""

        def found() -> Span | None:
            return next((span for span in self.spans if span.name == name), None)

        with self._come:
            span = self._come.wait_for(found, 20)
        assert span is not None, f"no {name!r} in {[span.name for span in self.spans]}"
        return span


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_trace_goes_on_from_the_camera_to_the_ledger(tmp_path: Path) -> None:
    with collecting() as (collector, url):
        where = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "CAPTUREKIT_CONCURRENCY": "0",
        }
        with running_server(tmp_path, **where) as server, running_worker(tmp_path, **where):
            token = server.add_device("cam")
            answer = httpx2.post(
                f"{server.url}/v1/ingest",
                files={"image": ("a.jpg", picture("4006381333931"), "image/jpeg")},
                headers={
                    "Authorization": f"Bearer {token}",
                    "traceparent": f"00-{TRACE}-{PARENT}-01",
                },
                timeout=20,
            )
            assert answer.is_success
            server.wait_until_processed()
            request, receive = collector.named("POST request"), collector.named("receive")
            process, ledger = collector.named("process"), collector.named("ledger")
            codes = collector.named("step codes")
    ours = [request, receive, process, ledger, codes]
    assert {span.trace_id.hex() for span in ours} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert receive.parent_span_id == request.span_id
    assert process.parent_span_id == receive.span_id
    assert ledger.parent_span_id == codes.parent_span_id == process.span_id
    told = {each.key: each.value.string_value for each in process.attributes}
    assert told["capturekit.capture"] == answer.json()["capture_id"]


def test_lines_of_json_name_request_capture_and_job(tmp_path: Path) -> None:
    with running_server(tmp_path, CAPTUREKIT_LOG_FORMAT="json") as server:
        token = server.add_device("cam")
        stored = server.upload(token, picture("4006381333931"))
        refused = server.upload(token, b"no picture")
        server.wait_until_processed()
        server.end()
        lines = [json.loads(line) for line in server.log if line.startswith("{")]
    by_request = {line.get("request"): line for line in lines}
    told = by_request[stored.headers["x-request-id"]]
    assert told["capture"] == stored.json()["capture_id"]
    assert (told["method"], told["path"], told["status"]) == ("POST", "/v1/ingest", 200)
    assert "not-an-image" in by_request[refused.json()["id"]]["message"]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


def test_a_line_inside_a_job_is_about_it_and_an_exception_stays_one_line() -> None:
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("capturekit.test")
    handler = logging.Handler()
    handler.addFilter(Ids())
    handler.emit = records.append  # type: ignore[method-assign,assignment]
    logger.addHandler(handler)
    try:
        with about(job="j-1"), about(capture="c-1"):
            logger.error("it failed for c-1", exc_info=OSError("two\nlines"))
        logger.warning("outside")
    finally:
        logger.removeHandler(handler)
    inside, outside = records
    told = json.loads(JsonLines().format(inside))
    assert (told["job"], told["capture"]) == ("j-1", "c-1")
    assert "two\nlines" in told["exception"]
    assert "\n" not in JsonLines().format(inside)
    # What the message says already is not said again.
    assert vars(inside)["about"] == " job=j-1"
    assert vars(outside)["about"] == ""
