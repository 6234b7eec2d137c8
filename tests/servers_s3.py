"""A real server that speaks S3, as a process of its own on loopback, ended by pid."""

import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

START_S = 60.0
SIGNATURE = (
    "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=00"
)


class S3Server:
    """moto's server. What it keeps is in its memory, and ends with it."""

    def start(self, port: int = 0) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        listens = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(listens,))
        self._reader.start()
        assert listens.wait(START_S)

    def _read(self, listens: threading.Event) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    self.port = int(found[1])
                    listens.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> None:
        self.ask("PUT", name)

    def ask(self, method: str, path: str, content: bytes | None = None) -> None:
        """A request whose signature nobody checks, past every client of ours."""
        fields = {"Content-Type": "application/octet-stream", "Authorization": SIGNATURE}
        url = f"{self.endpoint}/{path}"
        request = urllib.request.Request(url, content, fields, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            pass

    def url(self, path: str) -> str:
        """Of the blobs in ``BUCKET/PREFIX``."""
        options = f"endpoint={self.endpoint}&region=us-east-1"
        return f"s3://{path}?{options}&access_key_id=key&secret_access_key=secret-word"

    def pause(self) -> None:
        """Freeze it: connections are taken, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word to anyone. Nothing if it has ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server with a bucket ``pictures``, ended when the block is left."""
    server = S3Server()
    server.start()
    try:
        server.make_bucket("pictures")
        yield server
    finally:
        server.kill()
