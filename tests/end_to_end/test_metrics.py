"""The page for Prometheus: what is on it, of which processes, and what is not."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, Server, running_server, running_worker
from tests.servers_redis import running_redis

CODE = "4006381333931"

NAMES = [
    "captures_received",
    "upload_bytes",
    "http_request_duration_seconds",
    "jobs",
    "job_duration_seconds",
    "job_queue_wait_seconds",
    "queue_depth",
    "queue_oldest_age_seconds",
    "workers",
    "step_duration_seconds",
    "observations",
    "stock_moves",
    "proposals_open",
    "ratelimit_decisions",
    "ratelimit_scale_ratio",
    "ratelimit_backend_errors",
    "device_last_seen_timestamp_seconds",
    "device_battery_volts",
    "storage_bytes",
    "outbox_lag_seconds",
    "capture_to_stock_seconds",
    "build_info",
]
"""As the design has them; Prometheus's parser takes ``_total`` off."""


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with running_redis("valkey", tmp_path / "redis") as server:
        yield server.url


def page(server: Server) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values by sample's name and labels."""
    answer = httpx2.get(f"{server.url}/metrics", timeout=20)
    assert answer.status_code == 200
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        found.setdefault(family.name, {})
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.mark.parametrize("queue", ["sql://", "redis"])
def test_one_page_tells_of_servers_and_workers_and_survives_them(
    queue: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = queue if queue != "redis" else request.getfixturevalue("redis_url")
    where = {"CAPTUREKIT_QUEUE_URL": url, "CAPTUREKIT_CONCURRENCY": "0"}
    with running_server(tmp_path, **where) as server:
        token = server.add_device("cam")
        with running_worker(tmp_path, CAPTUREKIT_QUEUE_URL=url):
            for second in range(3):
                answer = server.upload(
                    token,
                    picture(CODE),
                    captured_at=f"2026-01-01T10:00:0{second}Z",
                    battery_v="3.9",
                )
                assert answer.is_success
            server.upload(token, picture(CODE), captured_at="2026-01-01T10:00:00Z")
            server.upload(token, b"no picture")
            server.wait_until_processed()
        told = page(server)
        assert told["capturekit_jobs_total"] == {
            (("outcome", "succeeded"), ("queue", "default")): 3
        }
        server.end()
        server.start()
        again = page(server)
    assert set(told) >= {f"capturekit_{name}" for name in NAMES} - {"capturekit_ratelimit_scale"}
    for outcome, number in {"stored": 3, "duplicate": 1, "damaged": 1}.items():
        labels = (("device_class", "form"), ("outcome", outcome))
        assert told["capturekit_captures_received_total"][labels] == number
    assert told["capturekit_capture_to_stock_seconds_count"] == {(): 3}
    assert told["capturekit_stock_moves_total"] == {(("cause", "run"),): 1}
    assert told["capturekit_observations_total"] == {
        (("analyser", "codes"), ("decision", "counted")): 3
    }
    assert told["capturekit_device_battery_volts"] == {(("device", "cam"),): 3.9}
    assert set(told["capturekit_metrics_part_up"].values()) == {1}
    for name, values in told.items():
        if name.endswith(("_total", "_count", "_bucket")) and "ratelimit" not in name:
            assert all(again[name][labels] >= value for labels, value in values.items()), name


def test_no_path_that_a_client_makes_up_becomes_a_label(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        for path in ("/v1/captures/secret-1", "/secret-2", "/v1/items/secret%2F3/lots"):
            server.admin.get(path)
        server.admin.request("SECRET", "/livez")
        text = httpx2.get(f"{server.url}/metrics", timeout=20).text
    assert "secret" not in text.lower()
    assert 'route="/v1/captures/{capture_id}",status="404"' in text.replace('method="GET",', "")
    assert ADMIN_TOKEN not in text


def test_what_cannot_be_asked_is_left_out_and_said(tmp_path: Path) -> None:
    # Nobody listens there.
    with running_server(tmp_path, CAPTUREKIT_QUEUE_URL="redis://127.0.0.1:1/0") as server:
        told = page(server)
    assert told["capturekit_metrics_part_up"][(("part", "queue"),)] == 0
    assert told["capturekit_metrics_part_up"][(("part", "counted"),)] == 1
    assert "capturekit_queue_depth" not in told
