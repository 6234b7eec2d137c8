"""Every example runs, as it says itself."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, run_cli

EXAMPLES = Path(__file__).parents[2] / "examples"
CODE = "4006381333931"
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
PATIENCE_S = 30.0


class Application:
    """An example under uvicorn, and what it prints."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self._process = process
        self._lines: list[str] = []
        self._printed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._printed:
                self._lines.append(line)
                self._printed.notify_all()

    def wait_for(self, pattern: str) -> str:
        """The first line in which this is found, once there is one."""

        def found() -> str | None:
            return next((line for line in self._lines if re.search(pattern, line)), None)

        with self._printed:
            line = self._printed.wait_for(found, PATIENCE_S)
        assert line, f"no {pattern!r} in {''.join(self._lines)}"
        return line

    def end(self) -> int:
        self._process.terminate()
        code = self._process.wait(PATIENCE_S)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


@contextmanager
def running(name: str, data: Path) -> Iterator[Application]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", port]
    process = subprocess.Popen(
        [*command, "--timeout-graceful-shutdown", "5", f"{name}:app"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "CAPTUREKIT_DATA_DIR": str(data),
            "CAPTUREKIT_ADMIN_TOKEN": ADMIN_TOKEN,
        },
    )
    application = Application(process, f"http://127.0.0.1:{port}")
    try:
        application.wait_for("Uvicorn running on")
        yield application
    finally:
        code = application.end()
    # Uvicorn ends what it was told to end with the signal itself.
    assert code in (0, -15)


def upload(application: Application, data: Path) -> None:
    token = re.search(r'"token": "([^"]+)"', run_cli(data, "devices", "add", "shelf", "--json"))
    assert token
    answer = httpx2.post(
        f"{application.url}/capture/v1/ingest",
        files={"image": ("picture.jpg", picture(CODE), "image/jpeg")},
        headers={"Authorization": f"Bearer {token[1]}"},
        timeout=20,
    )
    assert answer.json()["status"] == "stored", answer.text


def run_script(name: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_of_pictures_becomes_a_table(tmp_path: Path) -> None:
    (tmp_path / "shelf.jpg").write_bytes(picture(CODE))
    assert f"shelf.jpg: 1 x {CODE}" in run_script("process_folder.py", tmp_path, str(tmp_path))


def test_a_job_that_failed_is_done_once_the_second_time(tmp_path: Path) -> None:
    printed = run_script("background_jobs.py", tmp_path)
    assert "1 the picture's server does not answer\n2 succeeded\n" in printed
    assert "succeeded {'picture': '17.jpg'}" in printed


def test_an_existing_application_is_limited(tmp_path: Path) -> None:
    with running("limit_requests", tmp_path) as application:
        url = f"{application.url}/reports/"
        answers = [httpx2.get(f"{url}{number}", timeout=20) for number in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert answers[-1].headers["content-type"] == "application/problem+json"


def test_inside_fastapi_functions_are_told_what_changed(tmp_path: Path) -> None:
    with running("mounted_fastapi", tmp_path) as application:
        upload(application, tmp_path)
        application.wait_for(f"{CODE} in shelf: 0 -> 1")
        level = {"minimum": 3}
        path = f"{application.url}/capture/v1/par-levels/shelf/{CODE}"
        set_ = httpx2.put(path, json=level, headers=ADMIN, timeout=20)
        assert set_.is_success, set_.text
        application.wait_for(f"buy {CODE}, 1 left")
        assert httpx2.get(f"{application.url}/shelf/{CODE}", timeout=20).json() == {"shelf": 1}


@pytest.mark.parametrize("name", ["mounted_starlette", "mounted_django"])
def test_beside_another_application(name: str, tmp_path: Path) -> None:
    with running(name, tmp_path) as application:
        upload(application, tmp_path)
        assert httpx2.get(application.url, timeout=20).text == "the shop"
        assert httpx2.get(f"{application.url}/capture/readyz", timeout=20).is_success
        assert httpx2.get(f"{application.url}/capture/v1/nothing", timeout=20).status_code == 404


def test_every_example_is_listed_and_tested() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    tests = Path(__file__).read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f"]({file.name})" in listed
        assert file.stem in tests
