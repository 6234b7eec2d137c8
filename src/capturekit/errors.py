"""Every error capturekit raises on purpose, in one place.

Catch ``CaptureKitError`` for all of them. Facts are attributes; the message says what was
given and what to do. Wrong arguments are plain ``ValueError`` or ``TypeError``.
"""

from collections.abc import Sequence
from typing import NamedTuple


class CaptureKitError(Exception):
    """The base of all errors of this library."""


class MissingExtra(CaptureKitError, ImportError):
    """A feature needs a library that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs: pip install 'capturekit[{extra}]'")
        self.extra = extra


class ConfigError(CaptureKitError):
    """Settings that cannot work; the message names the setting and the way out."""


# Pictures


class ImageError(CaptureKitError):
    """A picture that was refused. Each leaf is one reason; ``reason`` is its stable name."""

    reason = "image_error"


class NotAnImage(ImageError):
    """The bytes do not start like any picture format we know."""

    reason = "not_an_image"


class UnsupportedFormat(ImageError):
    """A picture, but of a format that this installation does not decode."""

    reason = "unsupported_format"


class TooManyBytes(ImageError):
    """The file is larger than the cap on bytes."""

    reason = "too_many_bytes"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the picture has more than {max_bytes:,} bytes; send a smaller one")
        self.max_bytes = max_bytes


class TooManyPixels(ImageError):
    """Width times height is over the cap on pixels."""

    reason = "too_many_pixels"

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        super().__init__(
            f"the picture is {width} x {height}, {width * height:,} pixels; "
            f"at most {max_pixels:,} are taken"
        )
        self.width, self.height, self.max_pixels = width, height, max_pixels


class TooComplex(ImageError):
    """A file built so that decoding it costs far more than its size suggests."""

    reason = "too_complex"


class DamagedImage(ImageError):
    """The picture's data is cut or corrupt; take and send it again."""

    reason = "damaged"


# Jobs


class UnknownJob(CaptureKitError, LookupError):
    """No job with this id was ever submitted, or it was pruned."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job with id {job_id!r}: it was never submitted, or was pruned")
        self.job_id = job_id


class UnknownBatch(CaptureKitError, LookupError):
    """No job of this batch is known: none was submitted, or all were pruned."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"no jobs of a batch {batch_id!r}: none was submitted, or all were pruned")
        self.batch_id = batch_id


class UnknownWorker(CaptureKitError, LookupError):
    """No worker of this id was heard of lately."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"no worker with id {worker_id!r} was heard of lately")
        self.worker_id = worker_id


class LeaseLost(CaptureKitError):
    """The job was given to another attempt or cancelled; this worker's answer has no effect."""


class JobCancelled(CaptureKitError):
    """The job was cancelled, so it has no result."""


class QueueFull(CaptureKitError):
    """As many jobs wait as may; none of those submitted was taken. Try again later."""

    def __init__(self, max_waiting: int) -> None:
        super().__init__(f"the queue holds {max_waiting:,} waiting jobs, its most; try again later")
        self.max_waiting = max_waiting


class Retryable(CaptureKitError):
    """Raised by a job: it failed now and may work later."""


class Permanent(CaptureKitError):
    """Raised by a job: trying again cannot help."""


class UnknownKind(Permanent):
    """A worker was given a job of a kind that it has no handler for."""

    def __init__(self, kind: str, known: Sequence[str]) -> None:
        super().__init__(
            f"no handler for jobs of kind {kind!r}; this worker knows: {', '.join(known) or 'none'}"
        )
        self.kind = kind


class RateLimited(CaptureKitError):
    """Raised by a job: not before ``retry_after_s`` seconds from now. Costs no attempt."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


# Storage


class StorageError(CaptureKitError):
    """The database or the blob store did not do what was asked. Nothing was half written."""


class StorageFull(StorageError):
    """No space left on the device."""


class StorageReadOnly(StorageError):
    """The data folder or database cannot be written."""


class StorageBusy(StorageError):
    """Another process held the database's write lock for too long; try again."""


class BlobDoomed(StorageBusy):
    """The blob is being deleted, or was since it was put: put it again."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"blob {sha256} is being deleted; try again")
        self.sha256 = sha256


class StorageCorrupt(StorageError):
    """Stored bytes are not what was written."""


class StorageUnavailable(StorageError):
    """The storage's server did not answer in time, or refused; it may have done as asked."""


class KeyInTheWay(StorageError):
    """A server holds something else under the name that a rate limit's key would have."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the rate limit's key {key!r} holds something else; delete it, or use another prefix"
        )
        self.key = key


class DataDirInUse(StorageError):
    """Another server runs on this data folder."""


class DatabaseTooNew(StorageError):
    """The database was written by a newer capturekit."""

    def __init__(self, found: str, newest_known: str) -> None:
        super().__init__(
            f"the database is at revision {found}; this capturekit knows up to {newest_known}. "
            "Install the capturekit that wrote it, or a newer one"
        )
        self.found = found


class DatabaseTooOld(StorageError):
    """The database needs ``capturekit db upgrade`` first."""


# Captures, devices, stock


class Unknown(CaptureKitError, LookupError):
    """Nothing of this kind has this id."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"no {kind} with id {id!r}")
        self.kind, self.id = kind, id


class Conflict(CaptureKitError):
    """What was asked does not fit the present state; the message says what does."""


class OutOfDate(Conflict):
    """Somebody else has changed it since; read it again and decide anew."""


class ImportFault(NamedTuple):
    """What is wrong with a row of a file that was to be imported."""

    row: int
    """From 1 on; in CSV the heading is 1, as in a spreadsheet."""
    column: str
    """Empty when it is the row as a whole."""
    given: str
    message: str
    """What is wrong and what to do."""

    def __str__(self) -> str:
        cell = f", {self.column} {self.given!r}" if self.column else ""
        return f"row {self.row}{cell}: {self.message}"


class ImportRefused(CaptureKitError):
    """A file was not imported, and nothing of it was; ``faults`` are all that is wrong."""

    def __init__(self, faults: Sequence[ImportFault]) -> None:
        more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
        super().__init__(f"nothing was imported: {faults[0]}{more}")
        self.faults = tuple(faults)


class InvalidSignature(CaptureKitError):
    """What came to a webhook was not signed with its secret, or too long ago."""


class NotAuthorized(CaptureKitError):
    """The credential is missing, wrong or revoked; the answer is the same for all three."""


class ClaimRefused(NotAuthorized):
    """The code of a claim is wrong, used or too old; the answer is the same for all three."""
