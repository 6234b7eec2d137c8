"""What every store of blobs promises. Its contract suite is in ``capturekit.testing``."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Protocol

_HEX: Final = set("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class BlobUsage:
    """How much is stored."""

    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob as a listing has it."""

    sha256: str
    size_bytes: int
    modified_at: float
    """When it was last put, in seconds since 1970 by the clock of the storage."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one blob."""

    sha256: str
    reason: str
    """``missing``, ``corrupt`` or ``unreadable``."""


@dataclass(slots=True)
class Proof:
    """What reading every blob found. At most MAX_FAULTS faults are named."""

    count: int = 0
    """Blobs that were read and are what they should be."""
    size_bytes: int = 0
    missing: int = 0
    corrupt: int = 0
    extra: int = 0
    """Blobs that nothing needs; they are no fault, collection removes them."""
    extra_bytes: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all that should be there is, and as it was written."""
        return not self.missing and not self.corrupt


class Blobs(Protocol):
    """Keeps bytes under the SHA-256 of their content. Trouble is a ``StorageError``.

    Any number of processes may use one store at once.
    """

    async def put(self, content: bytes) -> str:
        """Keep the bytes and return their SHA-256 in hex, once they are durable.

        A blob that is there counts as new from now on, and one whose bytes changed is written
        anew.
        """
        ...

    async def get(self, sha256: str) -> bytes:
        """The bytes; raises Unknown, or StorageCorrupt when they changed in storage."""
        ...

    async def delete(self, sha256: str) -> None:
        """Forget the bytes; it is no error when they are gone."""
        ...

    def stored(self) -> AsyncIterator[StoredBlob]:
        """Every blob, in the order of their SHA-256, without reading any.

        Those that come or go meanwhile may be in it or not. Costs a walk over all of it.
        """
        ...

    async def usage(self) -> BlobUsage:
        """Count and bytes of what is stored. Costs as ``stored``."""
        ...

    async def owner(self) -> str | None:
        """To whom this store belongs, as ``claim`` set it."""
        ...

    async def claim(self, owner: str) -> str:
        """Belong to this owner unless there is one already; returns whose it is then."""
        ...

    async def check_writable(self) -> None:
        """Write and remove something small; raises as ``put``."""
        ...

    async def remove_unfinished(self, *, older_than_s: float = 0.0) -> None:
        """Remove what puts left behind that were killed, if it is as old as that.

        By default all of it, which is only for while nobody else puts.
        """
        ...


def require_address(sha256: str) -> str:
    """The address itself. Raises ValueError for what is no SHA-256 in lower-case hex."""
    if len(sha256) != 64 or not set(sha256) <= _HEX:
        raise ValueError(f"{sha256!r} is not a SHA-256 in lower-case hex")
    return sha256


def is_address(text: str) -> bool:
    """Whether it is a SHA-256 in lower-case hex."""
    return len(text) == 64 and set(text) <= _HEX


async def count(blobs: Blobs) -> BlobUsage:
    """``Blobs.usage`` by a listing."""
    number = size_bytes = 0
    async for one in blobs.stored():
        number += 1
        size_bytes += one.size_bytes
    return BlobUsage(number, size_bytes)
