"""Uploads that no client should send, by the thousand, to a real server.

Each is answered with a refusal that is a problem document, or with silence; what is stored is
what was acknowledged, and the next camera notices nothing.
"""

import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pytest

from capturekit.blobs.files import UNFINISHED
from tests.hostile import peak_bytes
from tests.made_pictures import picture
from tests.malformed import MAX_BYTES, TOKEN, Malformed, malformed
from tests.servers import Server, running_server

COUNT = int(os.environ.get("CAPTUREKIT_TEST_MALFORMED", "400"))
"""`nox -s faults` sends 10,000."""
SEED = int(os.environ.get("CAPTUREKIT_TEST_SEED", "0"))
AT_ONCE = 16

MAX_GROWTH_BYTES = 96 * 1024 * 1024
"""More than the server's peak after the first good upload is a leak: AT_ONCE uploads of
MAX_BYTES and their answers are 4 MB."""

LOOK_S = 0.3
"""A client that has said all waits so long before it hangs up its side."""
CLOSED_S = 20.0
"""Within it the server hangs up as well."""

IMPATIENT = """
from capturekit.web import edge, protocol
protocol.HEAD_S = 2.0
edge.PART_S, edge.BODY_S, edge.LOOK_S, edge.DRAIN_S = 2.0, 4.0, 0.2, 2.0
"""

CODE = "4006381333931"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("malformed")
    (folder / "sitecustomize.py").write_text(IMPATIENT)
    limits = {"CAPTUREKIT_MAX_UPLOAD_BYTES": str(MAX_BYTES)}
    with running_server(folder / "data", PYTHONPATH=str(folder), **limits) as server:
        yield server


@dataclass
class Heard:
    """What the server said to one of them."""

    statuses: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    """Captures that were acknowledged."""


def say(server: Server, token: str, upload: Malformed) -> Heard:
    """Say it, wait for the end, and read what came."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=CLOSED_S) as line:
        came = b""
        try:
            line.sendall(upload.data.replace(TOKEN.encode(), token.encode()))
            line.settimeout(LOOK_S)
            try:
                while part := line.recv(65536):
                    came += part
            except TimeoutError:
                line.settimeout(CLOSED_S)
                line.shutdown(socket.SHUT_WR)
                while part := line.recv(65536):
                    came += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        except TimeoutError:
            return Heard(wrong=["the connection is still open"])
    return heard(came, upload)


def heard(came: bytes, upload: Malformed) -> Heard:
    """The answers in these bytes; what is wrong with them."""
    found = Heard()
    while came:
        head, end, rest = came.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if not (end and status and length):
            # Cut off where the server had to hang up on a client that still spoke.
            break
        body, came = rest[: int(length[1])], rest[int(length[1]) :]
        found.statuses.append(int(status[1]))
        _judge(found, int(status[1]), head, body, upload)
    return found


def _judge(found: Heard, status: int, head: bytes, body: bytes, upload: Malformed) -> None:
    if status in (200, 201) and upload.may_be_taken:
        found.taken.add(json.loads(body)["capture_id"])
    elif not 400 <= status < 500:
        found.wrong.append(f"answered {status}: {body[:300]!r}")
    elif b"application/problem+json" not in head or json.loads(body)["status"] != status:
        found.wrong.append(f"{status} is no problem document: {head!r} {body[:300]!r}")


@pytest.mark.timeout(1800)
def test_malformed_uploads_are_refused_and_leave_nothing(server: Server) -> None:
    token = server.add_device("cam")
    assert server.upload(token, picture(CODE)).status_code == 200
    server.wait_until_processed()
    peak_before = peak_bytes(server.process.pid)
    ask = partial(say, server, token)
    uploads = (malformed(number, SEED, picture(CODE)) for number in range(COUNT))

    statuses: Counter[str] = Counter()
    taken: set[str] = set()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, (upload, one) in enumerate(threads.map(lambda u: (u, ask(u)), uploads)):
            assert one.wrong == [], (number, upload.kind, upload.data[:500])
            statuses.update(map(str, one.statuses) if one.statuses else ["closed"])
            taken |= one.taken
    peak_after = peak_bytes(server.process.pid)
    print(f"{COUNT} uploads, seed {SEED}: {dict(sorted(statuses.items()))}, {len(taken)} taken;")
    print(f"peak memory {peak_before >> 20} MB before, {peak_after >> 20} MB after")

    assert server.upload(server.add_device("next"), picture(CODE)).status_code == 200
    server.wait_until_processed()
    stored = {str(row["capture_id"]) for row in server.captures() if row["device_id"] == "cam"}
    assert taken <= stored
    # The first is one more. One whose client hung up too early may be, too, and each is whole.
    assert len(stored - taken) <= 1 + statuses["closed"]
    assert list(server.data.rglob(f"*{UNFINISHED}")) == []
    assert peak_after - peak_before < MAX_GROWTH_BYTES
    log = "".join(server.log)
    assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
