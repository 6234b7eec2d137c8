"""Blobs in a bucket keep the promises of ``Blobs``, and tell what is wrong with a server."""

import itertools
import time
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest

import capturekit.blobs.s3 as s3_blobs
from capturekit.blobs import Blobs, FileBlobs, open_blobs
from capturekit.errors import (
    ConfigError,
    StorageReadOnly,
    StorageUnavailable,
    Unknown,
)
from capturekit.testing.blobs_contract import CONTENT, SHA256, BlobsContract
from tests.servers_s3 import S3Server, running_s3

pytestmark = [pytest.mark.anyio, pytest.mark.needs_extra("s3")]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


class TestS3Blobs(BlobsContract):
    numbers = itertools.count()

    @pytest.fixture(autouse=True)
    def _server(self, server: S3Server) -> None:
        self.server = server

    async def make_blobs(self) -> Blobs:
        self.path = f"pictures/a%20prefix/{next(self.numbers)}"
        return open_blobs(self.server.url(self.path))

    async def tamper(self, blobs: Blobs, sha256: str, content: bytes | None) -> None:
        del blobs
        method = "DELETE" if content is None else "PUT"
        path = f"{self.path}/{sha256[:2]}/{sha256[2:]}"
        await anyio.to_thread.run_sync(self.server.ask, method, path, content)


async def test_two_prefixes_of_a_bucket_know_nothing_of_each_other(server: S3Server) -> None:
    one, other = (open_blobs(server.url(f"pictures/{name}")) for name in ("one", "one-more"))
    await one.put(CONTENT)
    assert (await other.usage()).count == 0
    with pytest.raises(Unknown):
        await other.get(SHA256)


async def test_a_bucket_that_is_not_there_is_told_by_every_call(server: S3Server) -> None:
    blobs = open_blobs(server.url("nowhere/prefix"))
    calls = (
        lambda: blobs.put(CONTENT),
        lambda: blobs.get(SHA256),
        blobs.usage,
        blobs.owner,
        lambda: blobs.claim("me"),
        blobs.check_writable,
    )
    for call in calls:
        with pytest.raises(StorageUnavailable, match="no bucket 'nowhere'"):
            await call()


async def test_a_server_that_refuses_is_told_as_such() -> None:
    with running_s3() as server:
        server.ask("POST", "moto-api/reset-auth", b"0")
        with pytest.raises(StorageReadOnly, match="AWS_") as told:
            await open_blobs(server.url("pictures/p")).put(CONTENT)
    assert "secret-word" not in str(told.value)


async def test_a_server_that_freezes_or_dies_is_unavailable_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_blobs, "REQUEST_S", 1)
    monkeypatch.setattr(s3_blobs, "RETRY_S", 2)
    with running_s3() as server:
        blobs = open_blobs(server.url("pictures/p"))
        await blobs.put(CONTENT)
        server.pause()
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await blobs.get(SHA256)
        server.resume()
        assert time.monotonic() - began < 15
        assert await blobs.get(SHA256) == CONTENT
        server.kill()
        for call in (lambda: blobs.put(CONTENT), lambda: blobs.get(SHA256), blobs.usage):
            with pytest.raises(StorageUnavailable) as told:
                await call()
            assert "secret-word" not in str(told.value)


async def test_a_server_that_dies_in_the_middle_of_puts_is_told_to_each() -> None:
    outcomes: list[str] = []
    with running_s3() as server:
        blobs = open_blobs(server.url("pictures/p"))

        async def put(number: int) -> None:
            try:
                await blobs.put(bytes([number]) * 200_000)
                outcomes.append("kept")
            except StorageUnavailable:
                outcomes.append("told")
            if len(outcomes) == 4:
                server.process.kill()

        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(put, number)
    assert len(outcomes) == 64
    assert set(outcomes) == {"kept", "told"}


@pytest.mark.parametrize(
    "url",
    [
        "s3://?region=x",
        "s3:///prefix",
        "s3://bucket/p?endpint=http://127.0.0.1",
        "ftp://user:secret-word@host/x",
        "file:relative",
        "file://host/x",
        "/a/folder",
        "",
    ],
)
def test_another_url_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as told:
        open_blobs(url)
    assert "secret-word" not in str(told.value)


def test_a_url_of_files_names_a_folder() -> None:
    assert isinstance(open_blobs("file:///tmp/some%20folder"), FileBlobs)
