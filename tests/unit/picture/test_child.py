import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import anyio
import numpy as np
import pytest

from capturekit.errors import (
    DamagedImage,
    ImageError,
    NotAnImage,
    TooComplex,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)
from capturekit.picture import decode, verify
from capturekit.picture.child import (
    DecodingChildren,
    Request,
    decode_in_child,
    understood,
    verify_in_child,
)
from capturekit.picture.child_main import answer
from tests import hostile
from tests.made_pictures import huge_png
from tests.pictures import encoded, jpeg, small, turned

JPEG = jpeg(small())
SOON_S = 0.2
"""Long enough for a request to reach a child."""


@pytest.fixture
def children() -> Iterator[DecodingChildren]:
    with DecodingChildren(1) as children:
        children.verify(JPEG)
        yield children


def child_pids(parent: int | str = "self") -> set[int]:
    """Processes that decode for this one; test runners have other children, too."""
    found = set()
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in listing.read_text().split():
            with suppress(OSError):  # it ended meanwhile
                if b"child_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(int(pid))
    return found


def newest_child() -> int:
    return max(child_pids())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


@pytest.mark.parametrize(
    "data",
    [JPEG, JPEG[:-2], encoded(small(), "JPEG", "L"), encoded(small(), "PNG"), turned(small(), 6)],
    ids=["jpeg", "truncated", "gray", "png", "turned"],
)
def test_a_child_gives_what_decoding_here_gives(data: bytes) -> None:
    there, here = decode_in_child(data), decode(data)

    assert there.info == here.info
    assert np.array_equal(there.pixels, here.pixels)
    assert verify_in_child(data) == verify(data)


def test_gray_pixels_come_with_a_way_to_colour() -> None:
    picture = decode_in_child(JPEG, colour=False)

    assert picture.pixels.ndim == 2
    assert picture.read_colour is not None
    assert np.array_equal(picture.read_colour(), decode(JPEG).pixels)
    assert decode_in_child(JPEG).read_colour is None


def test_a_very_high_cap_leaves_memory_to_decode() -> None:
    assert decode_in_child(JPEG, max_pixels=10**10).info.width == 160


def test_damage_is_flagged_in_a_child_as_well() -> None:
    picture = decode_in_child(JPEG[: len(JPEG) * 2 // 3], on_damage="flag")

    assert picture.info.flags == ("truncated", "damaged")


def test_pixels_may_be_drawn_on() -> None:
    picture = decode_in_child(JPEG)

    picture.pixels[:] = 7

    assert int(picture.pixels.sum()) == 7 * picture.pixels.size
    assert np.array_equal(decode_in_child(JPEG).pixels, decode(JPEG).pixels)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", NotAnImage),
        (b"text", NotAnImage),
        (b"BM" + bytes(100), UnsupportedFormat),
        (JPEG[:900], DamagedImage),
        (huge_png(10_000, 10_000), TooManyPixels),
        (
            encoded(small(1, 4, 4), "AVIF").replace(
                b"ispe" + bytes(7) + b"\4", b"ispe" + bytes(5) + b"\x7f\xff\4"
            ),
            TooManyPixels,
        ),
    ],
)
def test_a_refusal_is_the_same_leaf_and_text(data: bytes, expected: type[ImageError]) -> None:
    for there, here in ((decode_in_child, decode), (verify_in_child, verify)):
        with pytest.raises(expected) as from_child:
            there(data)
        with pytest.raises(expected) as from_here:
            here(data)
        assert str(from_child.value) == str(from_here.value)


def test_wrong_arguments_and_too_many_bytes_need_no_child() -> None:
    with DecodingChildren(1) as children:
        with pytest.raises(TooManyBytes):
            children.decode(JPEG, max_bytes=10)
        with pytest.raises(ValueError, match="on_damage"):
            children.decode(JPEG, on_damage="guess")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="at least one"):
        DecodingChildren(0)
    with pytest.raises(ValueError, match="memory_bytes"):
        DecodingChildren(memory_bytes=1)
    with pytest.raises(ValueError, match="cpu_s"):
        DecodingChildren(cpu_s=0)


def test_a_picture_over_the_cpu_limit_is_too_complex() -> None:
    with DecodingChildren(1, cpu_s=0.02) as children:
        with pytest.raises(TooComplex, match="CPU"):
            children.decode(huge_png(5_000, 5_000))
        assert children.decode(JPEG).info.width == 160


def test_the_cpu_limit_is_for_each_picture_anew() -> None:
    with DecodingChildren(1, cpu_s=0.2) as children:
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        data = huge_png(1_500, 1_500)
        for _ in range(30):
            children.verify(data)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used > 0.2


def test_a_picture_over_the_memory_limit_is_too_complex() -> None:
    with DecodingChildren(1, memory_bytes=160 * 2**20) as children:
        with pytest.raises(TooComplex, match="memory"):
            children.decode(hostile.CASES["png_25_mpx_16_bit_rgba_interlaced"]())
        assert children.decode(JPEG).info.width == 160


def test_a_decoder_that_hangs_is_killed() -> None:
    with DecodingChildren(1, wall_s=SOON_S) as impatient:
        impatient.verify(JPEG)
        stopped = newest_child()
        os.kill(stopped, signal.SIGSTOP)

        with pytest.raises(TooComplex, match="within"):
            impatient.verify(JPEG)

        assert not is_running(stopped)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_decoder_that_crashes_means_damage(
    children: DecodingChildren, number: signal.Signals
) -> None:
    crashing = newest_child()
    os.kill(crashing, signal.SIGSTOP)

    def crash() -> None:
        with suppress(ProcessLookupError):
            os.kill(crashing, number)
            os.kill(crashing, signal.SIGCONT)

    going_on = threading.Timer(SOON_S, crash)
    going_on.start()

    with pytest.raises(DamagedImage, match=number.name):
        children.decode(JPEG)
    going_on.join()
    assert children.decode(JPEG).info.width == 160
    assert newest_child() != crashing


def test_a_child_killed_while_idle_is_replaced(children: DecodingChildren) -> None:
    idle = newest_child()
    os.kill(idle, signal.SIGKILL)
    # Dead, and not yet waited for: its socket must be closed all the same.
    os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)

    assert children.decode(JPEG).info.width == 160


def test_a_child_killed_with_a_picture_is_replaced(children: DecodingChildren) -> None:
    busy = newest_child()
    os.kill(busy, signal.SIGSTOP)
    killing = threading.Timer(SOON_S, os.kill, (busy, signal.SIGKILL))
    killing.start()

    assert children.decode(JPEG).info.width == 160
    killing.join()
    assert not is_running(busy)


def test_a_picture_whose_children_are_killed_again_and_again_is_refused() -> None:
    done = threading.Event()

    spared = child_pids()

    def kill() -> None:
        while not done.wait(0.002):
            for pid in child_pids() - spared:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with DecodingChildren(1) as children, ThreadPoolExecutor(1) as killer:
        killing = killer.submit(kill)
        try:
            with pytest.raises(TooComplex, match="killed 2 times"):
                children.decode(JPEG)
        finally:
            done.set()
        killing.result()
        assert children.decode(JPEG).info.width == 160


def test_many_threads_share_few_children() -> None:
    files = [jpeg(small(seed)) for seed in range(40)]
    with DecodingChildren(2) as children, ThreadPoolExecutor(8) as threads:
        before = child_pids()
        pictures = list(threads.map(children.decode, files))
        assert len(child_pids() - before) <= 2
    for file, picture in zip(files, pictures, strict=True):
        assert np.array_equal(picture.pixels, decode(file).pixels)


def test_closing_ends_the_children_and_what_they_do(children: DecodingChildren) -> None:
    busy = newest_child()
    os.kill(busy, signal.SIGSTOP)
    closing = threading.Timer(SOON_S, children.close)
    closing.start()

    with pytest.raises(RuntimeError, match="closed"):
        children.decode(JPEG)
    closing.join()
    assert not is_running(busy)


@pytest.mark.anyio
async def test_a_thread_of_an_async_server_can_decode() -> None:
    assert (await anyio.to_thread.run_sync(decode_in_child, JPEG)).info.width == 160


def in_fork(children: DecodingChildren) -> None:
    assert children.decode(JPEG).info.width == 160
    assert decode_in_child(JPEG).info.width == 160
    assert len(child_pids()) == 2  # none of them the other process's


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_children_of_its_own(children: DecodingChildren) -> None:
    ours = newest_child()
    process = multiprocessing.get_context("fork").Process(target=in_fork, args=(children,))
    process.start()
    process.join(40)

    assert process.exitcode == 0
    assert children.decode(JPEG).info.width == 160
    assert newest_child() == ours


SCRIPT = """
import os, sys
from capturekit.picture.child import verify_in_child
from pathlib import Path
print(verify_in_child(Path(sys.argv[1]).read_bytes()).width, flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
"""


def test_a_script_from_standard_input_can_decode(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(JPEG)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-", file], input=SCRIPT.encode(), capture_output=True,
        check=False,
    )  # fmt: skip

    assert (done.stdout, done.stderr, done.returncode) == (b"160\n", b"", 0)


def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(JPEG)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, file, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"160\n"
        (orphan,) = child_pids(parent.pid)
        parent.kill()

    until(lambda: not is_running(orphan))


def test_a_child_sees_no_secrets_and_can_dump_no_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAPTUREKIT_ADMIN_TOKEN", "opens everything")
    with DecodingChildren(1) as children:
        children.verify(JPEG)
        child = Path(f"/proc/{newest_child()}")

        assert b"opens everything" not in (child / "environ").read_bytes()
        assert "Max core file size        0                    0" in (child / "limits").read_text()
        open_files = {str(file.readlink()) for file in (child / "fd").iterdir()}
        assert {name.split(":")[0] for name in open_files} <= {"/dev/null", "socket", "/memfd"}


# What runs inside, and what a child that was taken over could answer


def asked(data: bytes, **request: object) -> tuple[dict[str, object], bytes]:
    """The answer, and the pixels that were left."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    file, shared = os.memfd_create("picture"), os.memfd_create("pixels")
    os.write(file, data)
    limits = {"max_bytes": 10**6, "max_pixels": 10**6, "on_damage": "refuse", "colour": True}
    with ours, theirs, os.fdopen(shared, "rb") as left:
        answer(theirs, limits | request, file, shared)
        answered = json.loads(ours.recv(8192))
        left.seek(0)
        pixels = left.read()
    assert isinstance(answered, dict)
    return answered, pixels


def test_an_answer_is_json_and_pixels_lie_beside_it() -> None:
    said, pixels = asked(JPEG, want="decode")

    assert said["channels"] == 3
    assert pixels == decode(JPEG).pixels.tobytes()


def test_a_verdict_has_no_pixels() -> None:
    assert asked(JPEG, want="verify")[1] == b""
    assert asked(JPEG[:100], want="verify") == (
        {"reason": "damaged", "text": "the JPEG ends before its pixels begin", "size": None},
        b"",
    )


INFO = {"format": "jpeg", "media_type": "image/jpeg", "width": 4, "height": 2, "flags": []}


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no json",
        b"[" * 8000,
        b'{"info": null}',
        json.dumps({"info": INFO, "channels": 3}).encode(),
        json.dumps({"info": INFO, "channels": 2}).encode(),
        json.dumps({"info": INFO | {"width": 10**6}, "channels": 0}).encode(),
        json.dumps({"info": INFO | {"width": "4"}, "channels": 0}).encode(),
        json.dumps({"info": INFO, "code": "os.system()"}).encode(),
        json.dumps({"reason": "damaged", "text": 3}).encode(),
    ],
)
def test_what_our_child_would_not_say_is_not_believed(said: bytes) -> None:
    with (
        tempfile.TemporaryFile() as nothing,
        pytest.raises(ValueError, match=r"validation|pixels"),
    ):
        understood(said, nothing.fileno(), Request("decode", 100, 100))


def test_a_large_picture_does_not_stay_in_shared_memory() -> None:
    with tempfile.TemporaryFile() as shared:
        for width, kept in ((3_000, True), (12_000, False)):
            shared.truncate(3 * width * 1_000)
            info = INFO | {"width": width, "height": 1_000}
            said = json.dumps({"info": info, "channels": 3}).encode()

            _, pixels, _ = understood(said, shared.fileno(), Request("decode", 1, 10**8))

            assert pixels is not None
            assert pixels.shape == (1_000, width, 3)
            assert (os.fstat(shared.fileno()).st_size > 0) == kept
