"""Storage, limits, counts and health, for those who run a server."""

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, JsonValue

from capturekit.wire.base import Answer, Moment


class Amount(Answer):
    """So many, so large."""

    count: int
    size_bytes: int


class StorageNumbers(Answer):
    """What is stored, as it was last measured."""

    blobs: int
    blob_bytes: int
    pictures: Amount
    thumbnails: Amount
    unneeded: Amount
    measured_at: Moment
    database_bytes: int


class BlobFault(Answer):
    """What is wrong with a blob."""

    sha256: str
    reason: Literal["missing", "corrupt", "unreadable"]


class StorageVerified(Answer):
    """What reading every blob found."""

    is_whole: bool
    count: int
    size_bytes: int
    missing: int
    corrupt: int
    extra: int
    extra_bytes: int
    faults: list[BlobFault]


class BlobsCollected(Answer):
    """What a collection deleted, or would."""

    dry_run: bool
    deleted: int
    deleted_bytes: int
    kept: int
    kept_bytes: int
    fresh: int
    fresh_bytes: int
    finished: int


class PicturesRemoved(Answer):
    """What retention removed, or would."""

    dry_run: bool
    captures: int
    picture_bytes: int
    spared: int
    blobs: int


class LimitUsage(Answer):
    """What one key has spent."""

    key: str
    limit: int
    remaining: int
    window_s: float
    reset_s: float


class LimitServer(Answer):
    """The server that limits are kept in, and how often it did not answer."""

    on_failure: str
    breaker: str
    failures: int
    fallbacks: int
    opened: int


class Limit(Answer):
    """A limit as it is in force."""

    name: str
    rules: str
    scale: float
    keys: int | None
    allowed: int
    refused: int
    server: LimitServer | None


class LimitShown(Limit):
    """A limit with the keys that spent of it lately."""

    usage: list[LimitUsage]


class LimitList(Answer):
    """Every limit."""

    scale: float
    limits: list[LimitShown]


class Unavailable(Answer):
    """A block that could not be counted: no figure is better than a wrong one."""

    status: Literal["unavailable"]
    reason: str


class DeviceCounts(Answer):
    """Devices."""

    status: Literal["ok"]
    total: int
    active: int
    revoked: int


class CaptureCounts(Answer):
    """Captures by state."""

    status: Literal["ok"]
    total: int
    pending: int
    processing: int
    completed: int
    failed: int


class ObservationCounts(Answer):
    """Observations."""

    status: Literal["ok"]
    total: int
    proposals_open: int


class InventoryCounts(Answer):
    """Items and what moved."""

    status: Literal["ok"]
    items: int
    items_in_stock: int
    locations: int
    moves: int


class QueueCounts(Answer):
    """The queue."""

    status: Literal["ok"]
    active_jobs: int
    reserved_jobs: int
    total_queued: int
    oldest_age_s: float | None
    is_paused: bool


class LimitStates(Answer):
    """Limits, and how far uploads are limited by load."""

    model_config = ConfigDict(extra="allow")

    status: Literal["ok"]
    rules: dict[str, Limit]
    scale: float
    scaling: dict[str, JsonValue] | None = None
    admission: dict[str, JsonValue] | None = None


class StorageCounts(StorageNumbers):
    """What is stored."""

    status: Literal["ok"]


_status = Field(discriminator="status")
DevicesBlock: TypeAlias = Annotated[DeviceCounts | Unavailable, _status]
CapturesBlock: TypeAlias = Annotated[CaptureCounts | Unavailable, _status]
ObservationsBlock: TypeAlias = Annotated[ObservationCounts | Unavailable, _status]
InventoryBlock: TypeAlias = Annotated[InventoryCounts | Unavailable, _status]
QueueBlock: TypeAlias = Annotated[QueueCounts | Unavailable, _status]
LimitsBlock: TypeAlias = Annotated[LimitStates | Unavailable, _status]
StorageBlock: TypeAlias = Annotated[StorageCounts | Unavailable, _status]


class Stats(Answer):
    """Counts of everything."""

    devices: DevicesBlock
    captures: CapturesBlock
    observations: ObservationsBlock
    inventory: InventoryBlock
    queue: QueueBlock
    limits: LimitsBlock
    storage: StorageBlock


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Answer):
    """What works and what does not."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
    """``ok``, or what is wrong, for database, migrations, queue and blobs."""
