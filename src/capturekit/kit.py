"""The composition root: one of each part, opened and closed together."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypedDict, Unpack, overload

import anyio
import anyio.to_thread
from pydantic import JsonValue

from capturekit.blobs import Blobs, open_blobs
from capturekit.database import Connection, Database
from capturekit.datafolder import ServerLock, make_folder
from capturekit.errors import (
    CaptureKitError,
    ConfigError,
    Conflict,
    QueueFull,
    StorageCorrupt,
    StorageError,
)
from capturekit.events.listeners import Listeners
from capturekit.events.tellers import Tellers
from capturekit.executors import Executor, ProcessExecutor
from capturekit.measuring import flush_for_ever, measured, outcome_of
from capturekit.picture import PictureInfo, verify
from capturekit.pipeline import ProcessingPipeline, load_pipeline
from capturekit.pressure import Pressure
from capturekit.processing import JOB_KIND, JobLimits, Processing
from capturekit.queue.base import JobState, QueueBackend
from capturekit.queue.sql import SqlQueue
from capturekit.queue.sql import metadata as queue_metadata
from capturekit.queue.urls import open_queue
from capturekit.schedule import Schedule
from capturekit.settings import Settings
from capturekit.steps import default_pipeline
from capturekit.store import Capture, CaptureState, NewCapture, StockChange, Store, migrations
from capturekit.store.belonging import has_owner, require_own
from capturekit.store.retention import Keeping
from capturekit.store.schema import metadata as store_metadata
from capturekit.store.storage import Storage
from capturekit.telemetry import Telemetry
from capturekit.tracing import carried, span
from capturekit.worker import Handler, Worker

if TYPE_CHECKING:
    from starlette.applications import Starlette

logger = logging.getLogger("capturekit.kit")

LONG_TOKEN: Final = 20
"""Characters of an admin token from which nobody guesses it."""

FORGIVEN_KILLS: Final = 20
"""Ends of the server that a job survives without losing an attempt. A server that was killed
says little about what it was working on; a picture that kills it every time still fails."""

OWN_DATABASE: Final = "sql://"
"""The queue's URL when jobs are kept with the captures, and submitted in one transaction."""

CHECKED_BYTES: Final = 256 * 2**20
"""Size up to which SQLite's file is read whole at a start, in 0.9 ms a megabyte as measured."""

UNFINISHED_S: Final = 3600.0
"""Seconds after which no other server writes a blob still that it began; a killed one left it."""

SERVER_WAIT_S: Final = 5.0
"""Seconds for which a worker waits for what a server that starts with it has yet to make."""

LOOK_S: Final = 0.1
"""Seconds between looks for it."""

SWEEP_S: Final = 30.0
"""Seconds between looks for captures whose job was lost."""

SWEEP_BEHIND_S: Final = 1.0
"""The same, while the queue's server is away."""


class Role(StrEnum):
    """What this process is to its data folder."""

    SERVER = "server"
    """The only one: holds the lock, sweeps, checkpoints."""
    WORKER = "worker"
    """One of any number; takes jobs from the queue in the database."""
    COMMAND = "command"
    """Looks or changes something and leaves; runs no jobs."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as it arrives, with what its device says about it."""

    content: bytes
    device_id: str
    key: str | None = None
    """Names this upload among the device's; the same key again is the same capture."""
    captured_at: float | None = None
    """Seconds since 1970, UTC; None when the device has no clock."""
    trigger_type: str | None = None
    battery_v: float | None = None
    rssi_dbm: int | None = None
    metadata: dict[str, JsonValue] | None = None
    via: str = "python"
    """The way in, for the metrics: ``form``, ``frame``, ``folder`` and so on."""


class UploadFields(TypedDict, total=False):
    """What may be said of a picture that is given as bytes; see ``Upload``."""

    key: str | None
    captured_at: float | None
    trigger_type: str | None
    battery_v: float | None
    rssi_dbm: int | None
    metadata: dict[str, JsonValue] | None


class Reprocessed(NamedTuple):
    """What became of a capture that was to be looked at by another pipeline."""

    job_id: str | None
    """Of the job that will do it; None when nothing is left to do, and in a dry run."""
    changes: Sequence[StockChange]
    """In stock; of a dry run, what they would be."""


class CaptureKit:
    """Camera uploads in, stock out: the store, the queue, the pipeline and their worker.

    ``async with CaptureKit(Settings(data_dir=...)) as kit`` opens the data folder, brings
    the database up to date and starts processing; leaving it lets running jobs finish.
    Where ``is_working`` is False, ``kit.worker`` is made and left to the caller to run.
    ``handlers`` run jobs of your own kinds and ``schedules`` submit some by the clock.
    Raises DataDirInUse, StorageReadOnly, StorageFull, DatabaseTooNew or ConfigError.
    """

    store: Store
    storage: Storage
    """The pictures as a whole: their size, whether all are there, what may go."""
    queue: QueueBackend
    processing: Processing
    tellers: Tellers
    """Who tells other systems what happened; at work in a server."""
    on: Listeners
    """``@kit.on("stock.low")`` before a function: a server tells it what happened."""
    worker: Worker
    telemetry: Telemetry
    """What this process counted and has not yet written down."""
    pressure: Pressure | None = None
    """How busy a server is; None when limits do not adapt, and in other roles."""
    new_admin_token: str | None
    """The admin token, when it was made by this start; it is not kept in clear."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        pipeline: ProcessingPipeline | None = None,
        role: Role = Role.SERVER,
        is_working: bool = True,
        handlers: Mapping[str, Handler] | None = None,
        schedules: Sequence[Schedule] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings or Settings.load()
        self.role = role
        self.pipeline = pipeline or _pipeline(self.settings)
        self.blobs: Blobs = open_blobs(self.settings.blobs)
        self.on = Listeners()
        self.telemetry = Telemetry()
        self._is_working = is_working
        self._own_handlers = dict(handlers or {})
        self._schedules = schedules
        self._clock = clock
        self._is_behind = anyio.Event()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            try:
                await self._open(stack)
            except StorageCorrupt as error:
                message = f"{error}; `capturekit doctor` tells what to do"
                raise StorageCorrupt(message) from error
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """For ``FastAPI(lifespan=kit.lifespan)`` or Starlette's."""
        async with self:
            yield

    @property
    def app(self) -> "Starlette":
        """The HTTP application, to serve or to mount; it does not open the kit itself."""
        from capturekit.web.app import create_app

        return create_app(self)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What runs each kind of job: captures, and the kinds given."""
        named = {**self._own_handlers, JOB_KIND: self.processing.handle}
        return {kind: measured(handler, self.telemetry) for kind, handler in named.items()}

    @overload
    async def receive(self, picture: Upload) -> tuple[Capture, bool]: ...
    @overload
    async def receive(
        self, picture: bytes, device_id: str, **fields: Unpack[UploadFields]
    ) -> tuple[Capture, bool]: ...
    async def receive(
        self,
        picture: Upload | bytes,
        device_id: str | None = None,
        **fields: Unpack[UploadFields],
    ) -> tuple[Capture, bool]:
        """Keep a picture and queue it; returns its capture and whether it was known.

        ``picture`` is the file as it was taken, JPEG or another format of ``picture.verify``, with
        the id of its device; or an ``Upload`` that says all. Returns only when all of it is on the
        disk. Raises an ImageError, Unknown when there is no such device, NotAuthorized when it was
        revoked, Conflict when the key names another picture, QueueFull, or a StorageError; then
        nothing was kept.
        """
        if isinstance(picture, Upload):
            upload = picture
        elif device_id is None:
            raise TypeError("receive() takes bytes with the id of the device that took them")
        else:
            upload = Upload(bytes(picture), device_id, **fields)
        try:
            with span("receive", device=upload.device_id, bytes=len(upload.content)):
                capture, is_duplicate = await self._receive(upload)
        except CaptureKitError as error:
            self.telemetry.count("captures_received", upload.via, outcome_of(error))
            raise
        outcome = "duplicate" if is_duplicate else "stored"
        self.telemetry.count("captures_received", upload.via, outcome)
        if not is_duplicate:
            self.telemetry.count("upload_bytes", amount=len(upload.content))
        return capture, is_duplicate

    async def _receive(self, upload: Upload) -> tuple[Capture, bool]:
        info = await anyio.to_thread.run_sync(self._verify, upload.content)
        trace = carried()
        enqueue = partial(self._enqueue, is_full=await self._is_full(), trace=trace)

        async def record(sha256: str) -> tuple[Capture, bool, str]:
            new = _new_capture(upload, sha256, info)
            return *await self.store.captures.record(new, enqueue), sha256

        capture, is_duplicate, sha256 = await self.store.blob_records.keep(
            self.blobs, upload.content, record
        )
        if capture.sha256 != sha256:
            raise Conflict(f"key {upload.key!r} names another picture of {upload.device_id}")
        if not is_duplicate:
            await self._wake(capture, trace)
        return capture, is_duplicate

    def keeping(
        self,
        *,
        days: float | None = None,
        max_bytes: int | None = None,
        state: CaptureState | None = None,
    ) -> Keeping:
        """Which pictures may go: as given, or as the settings say when neither bound is given."""
        if days is None and max_bytes is None:
            days, max_bytes = self.settings.retention_days, self.settings.retention_bytes
        return Keeping(None if days is None else days * 86400, max_bytes, state)

    async def reprocess(self, capture_id: str, *, dry_run: bool = False) -> Reprocessed:
        """Let the present pipeline speak for a capture that another one processed.

        A dry run analyses the picture here and now and answers what would change in stock;
        nothing is kept. Else what the pipeline said before speaks again at once, or a job is
        submitted. Raises Unknown, Conflict when the picture was removed by retention, and in a
        dry run what the job would fail with.
        """
        if dry_run:
            return Reprocessed(None, await self.processing.rehearse([capture_id]))
        return Reprocessed(*await self.processing.reprocess(capture_id))

    async def require_own_blobs(self) -> None:
        """Raise ConfigError when these blobs are not the database's."""
        await require_own(self._database, self.blobs)

    async def database_revision(self) -> str | None:
        """The revision of the database's schema."""
        return await migrations.revision(self._database)

    async def require_head(self) -> None:
        """Raise DatabaseTooOld or DatabaseTooNew when the schema is not this version's."""
        await migrations.require_head(self._database)

    async def database_bytes(self) -> int:
        """Size of the database with its write-ahead log."""
        return await self._database.size_bytes()

    async def check_database(self) -> list[str]:
        """How the database's tables differ from what this version expects; empty when not."""
        return await migrations.check(self._database, store_metadata, queue_metadata)

    async def sweep(self) -> None:
        """Submit captures that no job stands for, and forget jobs that ended long ago."""
        if found := await self.processing.sweep():
            logger.info("%d captures had no job and were submitted", found)
        await self.queue.prune(
            older_than_s=self.settings.job_retention_s, keep=self.settings.max_finished_jobs
        )
        await self.store.nonces.prune()

    async def _open(self, stack: AsyncExitStack) -> None:
        folder = self.settings.data_dir
        if self.role is Role.WORKER:
            # Before the folder is made: a mistyped one is not.
            await self._require_shared_data()
        await anyio.to_thread.run_sync(make_folder, folder)
        if self.role is Role.SERVER:
            stack.enter_context(ServerLock.of_folder(folder))
            if (file := self.settings.database_path) is not None:
                stack.enter_context(await anyio.to_thread.run_sync(ServerLock.of_database, file))
        database = await stack.enter_async_context(
            Database(self.settings.database, is_checkpointing=self.role is Role.SERVER)
        )
        self._database = database
        if self.role is Role.SERVER:
            await self._require_sound(database)
        await self._bring_up_to_date(database)
        self.store = Store(database, clock=self._clock, threshold=self.settings.threshold)
        self.storage = Storage(database, self.blobs, self._clock, self.keeping())
        if self.role is Role.WORKER:
            await self._require_server_before(database)
        if self.role is not Role.COMMAND:
            await self.require_own_blobs()
        self.tellers = self._new_tellers()
        await self._open_queue(stack, database)
        await self._settle_admin_token()
        if self.role is not Role.COMMAND:
            await self._start_work(stack)

    async def _require_sound(self, database: Database) -> None:
        """Raise StorageCorrupt when a look at the file, short enough for a start, finds faults."""
        if not self._is_local or await database.size_bytes() > CHECKED_BYTES:
            return
        if faults := await database.faults(is_thorough=False):
            raise StorageCorrupt(f"the database is damaged: {faults[0]}")

    async def _bring_up_to_date(self, database: Database) -> None:
        """Upgrade the database, unless servers of an older version may be using it."""
        if self._is_local or await migrations.revision(database) is None:
            await migrations.upgrade(database)
        await migrations.require_head(database)

    def _new_tellers(self) -> Tellers:
        return Tellers(
            self.store,
            allow_private=self.settings.webhook_allow_private,
            mqtt_url=self.settings.mqtt_url if self.role is Role.SERVER else None,
            retention_s=self.settings.event_retention_days * 86400,
            is_alone=self._is_local,
            clock=self._clock,
        )

    async def _open_queue(self, stack: AsyncExitStack, database: Database) -> None:
        settings = self.settings
        url = settings.queue_url.get_secret_value()
        self._is_transactional = url == OWN_DATABASE
        queue = (
            SqlQueue(database, clock=self._clock, max_waiting=settings.max_queued)
            if self._is_transactional
            else open_queue(url, clock=self._clock, max_waiting=settings.max_queued)
        )
        self.queue = await stack.enter_async_context(queue)
        self.processing = Processing(
            self.store,
            self.queue,
            self.blobs,
            self.pipeline,
            limits=JobLimits(
                settings.max_attempts, settings.job_timeout_s, settings.device_concurrency
            ),
            executor=await self._open_executor(stack),
            telemetry=self.telemetry,
            clock=self._clock,
        )

    async def _open_executor(self, stack: AsyncExitStack) -> Executor | None:
        if self.settings.executor == "thread":
            return None
        executor = ProcessExecutor(
            max_jobs=self.settings.child_max_jobs,
            max_memory_bytes=self.settings.child_max_memory_bytes,
        )
        return await stack.enter_async_context(executor)

    async def _settle_admin_token(self) -> None:
        self.new_admin_token = None
        if self.role is not Role.SERVER:
            return
        if self.settings.admin_token is not None:
            if len(self.settings.admin_token) < LONG_TOKEN:
                logger.warning("CAPTUREKIT_ADMIN_TOKEN is short; use %d characters", LONG_TOKEN)
            await self.store.devices.set_admin_token(self.settings.admin_token.get_secret_value())
        else:
            self.new_admin_token = await self.store.devices.ensure_admin_token()

    async def _start_work(self, stack: AsyncExitStack) -> None:
        self.worker = Worker(
            self.queue,
            self.handlers,
            concurrency=max(1, self.settings.concurrency),
            lease_s=self.settings.job_lease_s,
            grace_s=self.settings.job_grace_s,
            name=self.role,
            queues=self.settings.queues,
            schedules=self._schedules,
            clock=self._clock,
            after_failure=self.processing.settle,
        )
        await self._start_counting(stack)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        if self.role is Role.SERVER:
            await self.tellers.prepare(self.on)
            await self._take_over()
            sweeper = await stack.enter_async_context(anyio.create_task_group())
            sweeper.start_soon(self._sweep_for_ever)
            sweeper.start_soon(self.tellers.run)
            if self.settings.watch or self.settings.poll:
                from capturekit.intake.together import Intake

                sweeper.start_soon(Intake(self).run)
            if self.settings.adaptive_limits:
                self.pressure = Pressure(
                    self.queue, self.settings.target_wait_s, signals=self.settings.load_signals
                )
                sweeper.start_soon(self.pressure.run)
            stack.callback(sweeper.cancel_scope.cancel)
        if self._is_working and self.settings.concurrency:
            tasks.start_soon(self.worker.run)
        stack.callback(self.worker.stop)

    async def _start_counting(self, stack: AsyncExitStack) -> None:
        counting = await stack.enter_async_context(anyio.create_task_group())
        counts_ledger = self.role is Role.SERVER
        flushing = partial(flush_for_ever, counts_ledger=counts_ledger)
        counting.start_soon(flushing, self.telemetry, self.store.tallies)
        stack.callback(counting.cancel_scope.cancel)

    async def _take_over(self) -> None:
        """Pick up what an earlier server left behind, however it ended."""
        if self._is_local and self._is_transactional and isinstance(self.queue, SqlQueue):
            # We hold the lock, so whoever worked inside an earlier server is dead.
            await self.queue.expire_leases(f"{Role.SERVER}-", forgiven=FORGIVEN_KILLS)
        older_than_s = 0.0 if self._is_local else UNFINISHED_S
        await self.blobs.remove_unfinished(older_than_s=older_than_s)
        await self.storage.collector.finish()
        await self._try_to_sweep()

    async def _sweep_for_ever(self) -> None:
        while True:
            with anyio.move_on_after(SWEEP_S):
                await self._is_behind.wait()
                await anyio.sleep(SWEEP_BEHIND_S)
            await self._try_to_sweep()
            await self._try_to_keep_house()

    async def _try_to_keep_house(self) -> None:
        try:
            await self.storage.keep_house()
        except CaptureKitError as error:
            logger.warning("pictures were not looked after, which is tried again: %s", error)

    async def _try_to_sweep(self) -> None:
        was_behind, self._is_behind = self._is_behind.is_set(), anyio.Event()
        try:
            await self.sweep()
        except StorageError as error:
            # The queue's server is away: what is kept waits in the store.
            self._is_behind.set()
            level = logging.DEBUG if was_behind else logging.WARNING
            logger.log(level, "the sweep failed and is tried again: %s", error)
        except CaptureKitError as error:
            logger.warning("the sweep failed and is tried again: %s", error)

    def _verify(self, content: bytes) -> PictureInfo:
        limits = self.settings
        check = verify
        if limits.isolate_decoding:
            from capturekit.picture.child import verify_in_child as check
        return check(content, max_bytes=limits.max_upload_bytes, max_pixels=limits.max_pixels)

    async def _require_shared_data(self) -> None:
        """Raise ConfigError when this worker would not see what the server sees.

        A file of the server's is waited for: both may be starting.
        """
        url = self.settings.queue_url.get_secret_value()
        if url.startswith("memory:"):
            raise ConfigError(
                "CAPTUREKIT_QUEUE_URL is memory://, which a worker process cannot see; "
                "use sql:// (the default) for the server and its workers"
            )
        path = self.settings.database_path
        if path is not None and not await _comes(anyio.Path(path).exists):
            raise ConfigError(
                f"there is no capturekit database at {path}: a worker needs the data folder of "
                "the server whose jobs it takes; share that folder, name it with --data, and "
                "start the server first"
            )
        queue = Path("/" + url.partition(":///")[2].lstrip("/")) if url[:6] == "sqlite" else None
        if queue is not None and not await _comes(anyio.Path(queue).exists):
            raise ConfigError(
                f"there is no queue at {queue}, the file that CAPTUREKIT_QUEUE_URL names: a worker "
                "needs the server's; on other hosts than the server's keep it in Redis or Postgres"
            )

    async def _require_server_before(self, database: Database) -> None:
        """Raise ConfigError when a worker is the first here: its pictures would be the database's.

        On a host of its own that is a folder which no server sees.
        """
        if not await _comes(partial(has_owner, database)):
            raise ConfigError(
                "no server has used this database yet: start the server first, with the same "
                "CAPTUREKIT_DATABASE_URL and CAPTUREKIT_BLOB_URL"
            )

    @property
    def _is_local(self) -> bool:
        """Whether no other server can use the database."""
        return self.settings.database_path is not None

    async def _is_full(self) -> bool:
        """Whether a queue elsewhere holds all it may; with the captures it says so itself."""
        limit = self.settings.max_queued
        if limit is None or self._is_transactional:
            return False
        try:
            depth = (await self.queue.stats()).depth
        except StorageError as error:
            logger.warning("whether the queue has room is not known: %s", error)
            return False
        return depth[JobState.QUEUED] + depth[JobState.SCHEDULED] >= limit

    def _enqueue(
        self,
        connection: Connection,
        capture: Capture,
        *,
        is_full: bool,
        trace: Mapping[str, str],
    ) -> None:
        """In the transaction that stores the capture: there is no capture without its job."""
        if is_full:
            raise QueueFull(self.settings.max_queued or 0)
        if self._is_transactional and isinstance(self.queue, SqlQueue):
            self.queue.submit_within(connection, [self.processing.job(capture, trace=trace)])

    async def _wake(self, capture: Capture, trace: Mapping[str, str]) -> None:
        if self._is_transactional and isinstance(self.queue, SqlQueue):
            self.queue.notify()
            return
        try:
            await self.queue.submit(self.processing.job(capture, trace=trace))
        except StorageError as error:
            # The capture is kept, and that is what was acknowledged.
            self._is_behind.set()
            logger.warning("capture %s waits for a sweep: %s", capture.id, error)
        except QueueFull as error:
            logger.warning("capture %s waits for a sweep: %s", capture.id, error)


async def _comes(is_there: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it is there, or comes while a server that starts at the same time would make it."""
    for _ in range(round(SERVER_WAIT_S / LOOK_S)):
        if await is_there():
            return True
        await anyio.sleep(LOOK_S)
    return await is_there()


async def upgrade_database(settings: Settings) -> str:
    """Bring the database to this version's schema, and return its revision.

    On a server that is done by hand, when no process of an older version uses it any more.
    """
    await anyio.to_thread.run_sync(make_folder, settings.data_dir)
    async with Database(settings.database, is_checkpointing=False) as database:
        await migrations.upgrade(database)
        return migrations.head()


def _pipeline(settings: Settings) -> ProcessingPipeline:
    if settings.pipeline:
        pipeline = load_pipeline(settings.pipeline)
    else:
        pipeline = default_pipeline(
            max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels
        )
    isolated = pipeline.isolated or settings.isolate_decoding
    return dataclasses.replace(pipeline, isolated=isolated)


def _new_capture(upload: Upload, sha256: str, info: PictureInfo) -> NewCapture:
    return NewCapture(
        device_id=upload.device_id,
        key=_capture_key(upload, sha256),
        sha256=sha256,
        size_bytes=len(upload.content),
        media_type=info.media_type,
        width=info.width,
        height=info.height,
        flags=info.flags,
        captured_at=upload.captured_at,
        trigger_type=upload.trigger_type,
        battery_v=upload.battery_v,
        rssi=upload.rssi_dbm,
        metadata=upload.metadata or {},
    )


def _capture_key(upload: Upload, sha256: str) -> str:
    """What makes an upload the same upload: the key given, else the time given and the bytes."""
    if upload.key is not None:
        return f"key:{upload.key}"
    return f"at:{upload.captured_at}:{sha256}"
