"""Pictures left in folders, taken by a real server and by ``capturekit watch`` beside it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.made_pictures import picture
from tests.servers import Server, running_server

CODE = "4006381333931"
WAIT_S = 30.0


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def watching(data: Path, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "capturekit", "watch", str(folder), "--data", str(data)]
    with subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stderr is not None
        assert "capturekit watches" in process.stderr.readline()
        try:
            yield process
        finally:
            process.kill()


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # The bytes differ, and the picture does not.
        (folder / name).write_bytes(picture(CODE) + bytes(number))


def has_stored(server: Server, number: int) -> bool:
    return len(server.captures()) >= number


def test_a_server_takes_what_its_folders_get(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with running_server(tmp_path / "data", CAPTUREKIT_WATCH=f"*={folder}") as server:
        server.add_device("pantry")
        put(folder, "pantry/a.jpg")
        (folder / "pantry/odd.txt").write_text("not a picture")
        wait_for((folder / "done/pantry/a.jpg").exists)
        server.wait_until_processed()
        assert server.stock() == {(CODE, "pantry"): 1}
        assert 'device_class="folder",outcome="stored"' in server.admin.get("/metrics").text
        # It waits: more of it may come.
        assert (folder / "pantry/odd.txt").exists()
        assert server.end() == 0


def test_a_watcher_that_is_killed_again_and_again_stores_all_once(tmp_path: Path) -> None:
    folder, names = tmp_path / "in", [f"{number}.jpg" for number in range(30)]
    with running_server(tmp_path / "data") as server:
        server.add_device("pantry")
        put(folder, *names)
        for captures in (3, 15):
            with watching(server.data, folder, "--device", "pantry"):
                wait_for(partial(has_stored, server, captures))
        with watching(server.data, folder, "--device", "pantry") as last:
            wait_for(lambda: len([*(folder / "done").glob("*.jpg")]) == len(names))
            last.send_signal(signal.SIGTERM)
            assert last.wait(WAIT_S) == 0
        assert len(server.captures()) == len(names)


def test_a_device_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        ended = subprocess.run(
            [sys.executable, "-m", "capturekit", "watch", str(tmp_path), "--device", "nobody"],
            env={**os.environ, "CAPTUREKIT_DATA_DIR": str(server.data)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert "no device with id 'nobody'" in ended.stderr
