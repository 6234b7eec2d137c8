"""What every store of blobs must do, as tests: one for each sentence of ``Blobs``.

For a store of your own, in a test file (anyio's pytest plugin runs it)::

    class TestMyBlobs(BlobsContract):
        async def make_blobs(self):
            return MyBlobs()  # empty, and another each time

        async def tamper(
            self, blobs, sha256, content
        ): ...  # write these bytes behind its back; None removes the blob
"""

import hashlib
import time
from collections.abc import AsyncIterator
from typing import Final

import anyio
import pytest

from capturekit.blobs.base import Blobs, BlobUsage
from capturekit.blobs.proof import prove
from capturekit.errors import StorageCorrupt, Unknown

CONTENT: Final = b"picture " * 1000
SHA256: Final = hashlib.sha256(CONTENT).hexdigest()
CLOCKS_APART_S: Final = 5.0
"""How far the storage's clock may be from this machine's in these tests."""

pytestmark = pytest.mark.anyio


class BlobsContract:
    """Subclass it, give it ``make_blobs`` and ``tamper``, and pytest runs the rest."""

    pytestmark = pytest.mark.anyio

    async def make_blobs(self) -> Blobs:
        """A store with nothing in it, that belongs to nobody."""
        raise NotImplementedError

    async def tamper(self, blobs: Blobs, sha256: str, content: bytes | None) -> None:
        """Let the blob hold these bytes, without the store's knowledge; None removes it."""
        raise NotImplementedError

    async def test_a_blob_is_found_by_its_hash(self) -> None:
        """Also an empty one."""
        blobs = await self.make_blobs()
        for content in (CONTENT, b""):
            assert await blobs.put(content) == hashlib.sha256(content).hexdigest()
            assert await blobs.get(hashlib.sha256(content).hexdigest()) == content

    async def test_the_same_bytes_are_kept_once(self) -> None:
        """However often, and from how many at once."""
        blobs = await self.make_blobs()
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(blobs.put, CONTENT)
        assert await blobs.usage() == BlobUsage(1, len(CONTENT))
        assert await blobs.get(SHA256) == CONTENT

    async def test_changed_bytes_are_noticed(self) -> None:
        """By the one who reads them, and not passed on."""
        blobs = await self.make_blobs()
        await blobs.put(CONTENT)
        for changed in (b"x" + CONTENT[1:], CONTENT[:-1], b""):
            await self.tamper(blobs, SHA256, changed)
            with pytest.raises(StorageCorrupt):
                await blobs.get(SHA256)

    async def test_changed_bytes_are_written_anew_by_a_put(self) -> None:
        """A client that sends its picture again heals it."""
        blobs = await self.make_blobs()
        await blobs.put(CONTENT)
        await self.tamper(blobs, SHA256, CONTENT[:100])
        await blobs.put(CONTENT)
        assert await blobs.get(SHA256) == CONTENT

    async def test_an_unknown_blob_and_a_deleted_one_are_unknown(self) -> None:
        """And to delete what is gone is no error."""
        blobs = await self.make_blobs()
        with pytest.raises(Unknown):
            await blobs.get(SHA256)
        await blobs.put(CONTENT)
        for _ in range(2):
            await blobs.delete(SHA256)
        with pytest.raises(Unknown):
            await blobs.get(SHA256)

    @pytest.mark.parametrize("name", ["", "../../etc/passwd", SHA256.upper(), SHA256[:-1]])
    async def test_only_a_hash_is_an_address(self, name: str) -> None:
        """Nothing else ever becomes a path or a key."""
        blobs = await self.make_blobs()
        for use in (blobs.get, blobs.delete):
            with pytest.raises(ValueError, match="SHA-256"):
                await use(name)

    async def test_a_listing_is_in_order_and_has_sizes_and_times(self) -> None:
        """Enough of them that they lie in several folders."""
        blobs = await self.make_blobs()
        sizes = {await blobs.put(bytes([number]) * number): number for number in range(40)}
        listed = [one async for one in blobs.stored()]
        assert [one.sha256 for one in listed] == sorted(sizes)
        assert {one.sha256: one.size_bytes for one in listed} == sizes
        oldest = min(one.modified_at for one in listed)
        assert abs(oldest - time.time()) < 60 + CLOCKS_APART_S
        assert await blobs.usage() == BlobUsage(40, sum(range(40)))

    async def test_a_store_belongs_to_who_claimed_it_first(self) -> None:
        """And that claim is no blob."""
        blobs = await self.make_blobs()
        assert await blobs.owner() is None
        assert await blobs.claim("first") == "first"
        assert await blobs.claim("second") == "first"
        assert await blobs.owner() == "first"
        assert await blobs.usage() == BlobUsage(0, 0)

    async def test_what_was_tried_leaves_nothing(self) -> None:
        """To be asked whether one can write costs no space."""
        blobs = await self.make_blobs()
        await blobs.check_writable()
        await blobs.remove_unfinished()
        assert await blobs.usage() == BlobUsage(0, 0)

    async def test_a_proof_finds_what_is_missing_corrupt_or_extra(self) -> None:
        """And counts what is well."""
        blobs = await self.make_blobs()
        names = sorted([await blobs.put(bytes([number]) * 10) for number in range(30)])
        await self.tamper(blobs, names[3], b"other byte")
        await self.tamper(blobs, names[7], None)

        async def wanted() -> AsyncIterator[str]:
            for name in (*names[:11], *names[12:]):
                yield name

        proof = await prove(blobs, wanted())
        told = {(fault.sha256, fault.reason) for fault in proof.faults}
        assert told == {(names[3], "corrupt"), (names[7], "missing")}
        assert (proof.count, proof.missing, proof.corrupt, proof.extra) == (27, 1, 1, 1)
        assert not proof.is_whole
