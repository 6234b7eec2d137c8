"""``@kit.on("stock.low")``: functions of the application that are told what happened.

Each function has a place of its own in the outbox, kept in the database under its name: what
happens while no server runs it is told at the next start, and one that is slow or fails delays
no other. Of several servers on a database, one at a time tells a function.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar, overload

import anyio
import anyio.to_thread

from capturekit.errors import ConfigError, StorageError
from capturekit.events.kinds import (
    TYPES,
    CaptureCompleted,
    CaptureFailed,
    Happened,
    MovementRecorded,
    MovementVoided,
    ProposalOpened,
    StockBelowZero,
    StockChanged,
    StockLow,
    StockRestocked,
    StockUnwatched,
    WebhookDisabled,
)
from capturekit.events.webhooks import FIRST_PAUSE_S, RENEW_S, pause_s
from capturekit.store import Event, Store

logger = logging.getLogger("capturekit.events")

MAX_TRIES: Final = 5
"""Times that a function is told an event before it is passed over."""

BATCH: Final = 100
"""Events read at once."""

ASK_S: Final = 1.0
"""Seconds between tries to have what another process tells."""

E = TypeVar("E", bound=Happened)

Told: TypeAlias = Callable[[E], Awaitable[None] | None]
"""A function that is told events of a kind."""

Register: TypeAlias = Callable[[Told[E]], Told[E]]
"""Takes such a function and hands it back as it is."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A function, what it is told, and the name under which its place is kept."""

    kind: str
    name: str
    function: Callable[..., Awaitable[None] | None]
    max_tries: int

    @property
    def outlet(self) -> str:
        """Names its place in the outbox."""
        return f"on:{self.kind}:{self.name}"

    async def tell(self, event: Event) -> None:
        """Call the function; what it raises comes out."""
        told = TYPES[self.kind].model_validate(event.envelope())
        if inspect.iscoroutinefunction(self.function):
            await self.function(told)
            return
        answer = await anyio.to_thread.run_sync(self.function, told)
        if inspect.isawaitable(answer):
            await answer


class Listeners:
    """The functions that were registered, before the kit is opened."""

    def __init__(self) -> None:
        self.all: dict[str, Listener] = {}
        self.is_open = False
        """Whether it is too late to register more."""

    @overload
    def __call__(
        self, kind: Literal["stock.changed"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[StockChanged]: ...
    @overload
    def __call__(
        self, kind: Literal["stock.low"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[StockLow]: ...
    @overload
    def __call__(
        self, kind: Literal["stock.restocked"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[StockRestocked]: ...
    @overload
    def __call__(
        self, kind: Literal["stock.unwatched"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[StockUnwatched]: ...
    @overload
    def __call__(
        self, kind: Literal["stock.below_zero"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[StockBelowZero]: ...
    @overload
    def __call__(
        self, kind: Literal["movement.recorded"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[MovementRecorded]: ...
    @overload
    def __call__(
        self, kind: Literal["movement.voided"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[MovementVoided]: ...
    @overload
    def __call__(
        self, kind: Literal["capture.completed"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[CaptureCompleted]: ...
    @overload
    def __call__(
        self, kind: Literal["capture.failed"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[CaptureFailed]: ...
    @overload
    def __call__(
        self, kind: Literal["proposal.opened"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[ProposalOpened]: ...
    @overload
    def __call__(
        self, kind: Literal["webhook.disabled"], *, name: str | None = ..., max_tries: int = ...
    ) -> Register[WebhookDisabled]: ...

    def __call__(
        self, kind: str, *, name: str | None = None, max_tries: int = MAX_TRIES
    ) -> Register[E]:
        """Tell the function that follows what happens, in order and at least once.

        It runs in the event loop when it is a coroutine function, else in a thread. What it
        raises is logged and it is told the same event again, after up to 1, 2, 4 ... seconds,
        ``max_tries`` times in all; then that event is passed over. ``name`` keeps its place
        when the function is renamed or moved. Raises ConfigError for a kind that is none, a name
        that is taken, and once the kit is open.
        """
        if kind not in TYPES:
            raise ConfigError(f"no event is of the kind {kind!r}; kinds: {', '.join(TYPES)}")
        if self.is_open:
            raise ConfigError(f"on({kind!r}) comes too late: register before the kit is opened")

        def register(function: Told[E]) -> Told[E]:
            known_as = name or f"{function.__module__}.{function.__qualname__}"
            listener = Listener(kind, known_as, function, max_tries)
            if listener.outlet in self.all:
                raise ConfigError(f"on({kind!r}): {known_as!r} is there already; give a name")
            self.all[listener.outlet] = listener
            return function

        return register


class ListenerTeller:
    """Tells one function while this process holds its place."""

    def __init__(
        self,
        listener: Listener,
        store: Store,
        *,
        holder: str,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._listener = listener
        self._store = store
        self._holder = holder
        self._first_pause_s = first_pause_s

    async def run(self) -> None:
        """Tell until it is cancelled."""
        while True:
            try:
                await self._turn()
            except StorageError as error:
                logger.warning("%s waits: %s", self._listener.outlet, error)
                await anyio.sleep(RENEW_S)

    async def _turn(self) -> None:
        outlets, outbox = self._store.outlets, self._store.outbox
        await outlets.ensure(self._listener.outlet)
        held = await outlets.hold(self._listener.outlet, self._holder)
        if held is None:
            await anyio.sleep(ASK_S)
            return
        cursor = held.cursor
        batch = await outbox.after(cursor, BATCH, kinds=[self._listener.kind])
        for event in batch.events:
            await self._tell(event)
            if not await self._advance(cursor, event.seq):
                return
            cursor = event.seq
        if batch.upto > cursor:
            await self._advance(cursor, batch.upto)
        elif not batch.events:
            await outbox.wait(cursor, RENEW_S)

    async def _advance(self, cursor: int, to: int) -> bool:
        is_ours = False
        # What was told is written down, also when the server ends: else it is told again.
        with anyio.CancelScope(shield=True):
            is_ours = await self._store.outlets.advance(
                self._listener.outlet, self._holder, cursor, to
            )
        return is_ours  # noqa: RET504  # a scope may swallow, says mypy

    async def _tell(self, event: Event) -> None:
        """Tell it until the function takes it or may not be told it again."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_holding)
            for failures in range(self._listener.max_tries):
                try:
                    await self._listener.tell(event)
                    break
                except Exception:
                    logger.exception(
                        "%s failed at event %d, try %d of %d",
                        *(self._listener.outlet, event.seq, failures + 1),
                        self._listener.max_tries,
                    )
                if failures + 1 < self._listener.max_tries:
                    await anyio.sleep(pause_s(failures, 0.0, self._first_pause_s))
            tasks.cancel_scope.cancel()

    async def _keep_holding(self) -> None:
        while True:
            await anyio.sleep(RENEW_S)
            try:
                await self._store.outlets.hold(self._listener.outlet, self._holder)
            except StorageError as error:
                logger.warning("%s: %s", self._listener.outlet, error)
