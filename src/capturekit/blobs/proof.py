"""Reading every blob to see that it is what was written."""

from collections.abc import AsyncIterator
from typing import Final

from capturekit.blobs.base import Blobs, Fault, Proof, StoredBlob
from capturekit.errors import StorageCorrupt, StorageError, Unknown

MAX_FAULTS: Final = 1000
"""Faults that are named; more are only counted."""


async def prove(blobs: Blobs, wanted: AsyncIterator[str], *, is_thorough: bool = True) -> Proof:
    """Compare what is stored with what should be, ``wanted`` in ascending order.

    Holds one blob in memory at a time, and no list of them. Unless it ``is_thorough`` nothing
    is read: then only what is missing is found. Raises StorageError when the store cannot be
    listed.
    """
    proof = Proof()
    stored = aiter(blobs.stored())
    have = await anext(stored, None)
    async for sha256 in wanted:
        while have is not None and have.sha256 < sha256:
            _note_extra(proof, have)
            have = await _next(stored, have)
        if have is not None and have.sha256 == sha256:
            await _read(proof, blobs, have, is_thorough=is_thorough)
            have = await _next(stored, have)
        else:
            await _look_again(proof, blobs, sha256)
    while have is not None:
        _note_extra(proof, have)
        have = await _next(stored, have)
    return proof


async def _next(stored: AsyncIterator[StoredBlob], before: StoredBlob) -> StoredBlob | None:
    following = await anext(stored, None)
    if following is not None and following.sha256 <= before.sha256:
        raise StorageError("the blob store does not list its blobs in order")
    return following


async def _look_again(proof: Proof, blobs: Blobs, sha256: str) -> None:
    """It may have come after its folder was listed."""
    try:
        content = await blobs.get(sha256)
    except Unknown:
        _note(proof, sha256, "missing")
    except StorageCorrupt:
        _note(proof, sha256, "corrupt")
    except StorageError:
        _note(proof, sha256, "unreadable")
    else:
        proof.count += 1
        proof.size_bytes += len(content)


async def _read(proof: Proof, blobs: Blobs, have: StoredBlob, *, is_thorough: bool) -> None:
    if is_thorough:
        await _look_again(proof, blobs, have.sha256)
    else:
        proof.count += 1
        proof.size_bytes += have.size_bytes


def _note(proof: Proof, sha256: str, reason: str) -> None:
    if reason == "missing":
        proof.missing += 1
    else:
        proof.corrupt += 1
    if len(proof.faults) < MAX_FAULTS:
        proof.faults.append(Fault(sha256, reason))


def _note_extra(proof: Proof, blob: StoredBlob) -> None:
    proof.extra += 1
    proof.extra_bytes += blob.size_bytes
