"""Blobs in files keep the promises of ``Blobs``."""

import tempfile
from pathlib import Path

import pytest

from capturekit.blobs import Blobs, open_blobs
from capturekit.testing.blobs_contract import BlobsContract


class TestFileBlobs(BlobsContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = Path(tempfile.mkdtemp(dir=tmp_path)) / "with space"

    async def make_blobs(self) -> Blobs:
        return open_blobs(self.root.as_uri())

    async def tamper(self, blobs: Blobs, sha256: str, content: bytes | None) -> None:
        del blobs
        path = self.root / sha256[:2] / sha256[2:]
        path.unlink() if content is None else path.write_bytes(content)
