"""What an upload costs beside a bare Starlette handler that reads and hashes the same stream.

All are driven in process without a server, in turns within each round, with the body in parts of
64 KB as uvicorn gives them; figures are CPU time of the process with all its threads. Ours does
what the bare handler does not: it knows the device, counts its limits, looks at the picture, and
puts blob, row and job on the disk. The latter, ``kit.receive``, is measured alone, too.

Run: ``python tests/benchmarks/bench_handler.py [UPLOADS]`` (in a round, 60 by default).
"""

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from capturekit.kit import CaptureKit, Upload
from capturekit.settings import Settings
from tests.made_pictures import picture

ROUNDS: Final = 7
BYTES: Final = 200_000
PART: Final = 65_536
GOAL: Final = 1.5
BOUNDARY: Final = "--------------------------boundary"

Way = Callable[[bytes], Awaitable[None]]
numbers = count()
PICTURE: Final = picture("4006381333931").ljust(BYTES - 8, b"\0")


def fresh() -> bytes:
    """A picture that was never seen."""
    return PICTURE + next(numbers).to_bytes(8, "big")


# The bare ones


async def read_and_hash(request: Request) -> JSONResponse:
    digest, content = hashlib.sha256(), bytearray()
    async for part in request.stream():
        digest.update(part)
        content += part
    return JSONResponse({"sha256": digest.hexdigest()})


async def form_and_hash(request: Request) -> JSONResponse:
    async with request.form() as form:
        file = form["image"]
        assert isinstance(file, UploadFile)
        content = await file.read()
    return JSONResponse({"sha256": hashlib.sha256(content).hexdigest()})


def bare() -> Starlette:
    routes = [
        Route("/raw", read_and_hash, methods=["PUT"]),
        Route("/read", read_and_hash, methods=["POST"]),
        Route("/form", form_and_hash, methods=["POST"]),
    ]
    return Starlette(routes=routes)


# The driver


async def call(
    app: Starlette, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    """One request, as a server would make it; must be answered with success."""
    parts = [body[at : at + PART] for at in range(0, len(body), PART)]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        part = parts.pop(0) if parts else b""
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:  # noqa: ANN401  # ASGI's
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    named = {"host": "x", "content-length": str(len(body)), **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    assert statuses in ([200], [201]), statuses


def form(content: bytes) -> bytes:
    told = 'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    head = f"--{BOUNDARY}\r\n{told}\r\nContent-Type: image/jpeg\r\n\r\n"
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def ways(kit: CaptureKit, token: str) -> dict[str, Way]:
    ours, theirs = kit.app, bare()
    bearer = {"authorization": f"Bearer {token}"}
    raw = {"content-type": "image/jpeg"}
    multipart = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}

    async def ours_raw(content: bytes) -> None:
        path = f"/v1/devices/camera/frames/b-{next(numbers)}"
        await call(ours, "PUT", path, raw | bearer, content)

    async def ours_form(content: bytes) -> None:
        await call(ours, "POST", "/v1/ingest", multipart | bearer, form(content))

    async def receive_alone(content: bytes) -> None:
        digest = hashlib.sha256(content)
        assert digest.digest_size
        await kit.receive(Upload(content, "camera", key=f"k-{next(numbers)}"))

    return {
        "raw, bare": lambda content: call(theirs, "PUT", "/raw", raw, content),
        "raw, ours": ours_raw,
        "form, bare": lambda content: call(theirs, "POST", "/read", multipart, form(content)),
        "form, starlette's": lambda content: call(
            theirs, "POST", "/form", multipart, form(content)
        ),
        "form, ours": ours_form,
        "kit.receive alone": receive_alone,
    }


async def cpu_ms(way: Way, uploads: int) -> float:
    """Of one upload."""
    contents = [fresh() for _ in range(uploads)]
    began = time.process_time()
    for content in contents:
        await way(content)
    return 1000 * (time.process_time() - began) / uploads


async def compare(uploads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(
            data_dir=Path(folder), concurrency=0, max_queued=1_000_000, adaptive_limits=False,
            rate_limits={"ingest": "1000000/minute"},
        )  # fmt: skip
        async with CaptureKit(settings, is_working=False) as kit:
            _, token = await kit.store.devices.add("camera")
            all_ways = ways(kit, token)
            rounds = [
                {name: await cpu_ms(way, uploads) for name, way in all_ways.items()}
                for _ in range(ROUNDS + 1)
            ][1:]
    show(rounds)


def show(rounds: list[dict[str, float]]) -> None:
    print(f"{BYTES // 1000} KB an upload; medians of {ROUNDS} rounds")
    for name in rounds[0]:
        print(f"{name:>20} {statistics.median(one[name] for one in rounds):7.3f} ms CPU")
    for route in ("raw", "form"):
        all_of_it, handler = (
            statistics.median(
                (one[f"{route}, ours"] - without * one["kit.receive alone"]) / one[f"{route}, bare"]
                for one in rounds
            )
            for without in (0, 1)
        )
        told = "" if all_of_it <= GOAL else "   MISSED"
        print(
            f"{route}: {all_of_it:.2f} x bare with all that is kept (goal {GOAL}){told}; "
            f"{handler:.2f} x without what kit.receive takes alone"
        )


if __name__ == "__main__":
    anyio.run(compare, int(sys.argv[1]) if len(sys.argv) > 1 else 60)
