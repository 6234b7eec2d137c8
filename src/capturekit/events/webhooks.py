"""Tells a webhook event after event, in their order, until each was taken."""

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import anyio

from capturekit.errors import StorageError
from capturekit.events.post import GONE, TIMEOUT_S, Answer, Poster
from capturekit.store import Event, Store, Webhook, WebhookAttempt
from capturekit.store.outbox import Batch
from capturekit.store.outlets import HOLD_S
from capturekit.store.webhooks import Held

logger = logging.getLogger("capturekit.events")

FIRST_PAUSE_S: Final = 1.0
"""Mean pause after the first failure is half of it; it doubles with each."""

MAX_PAUSE_S: Final = 3600.0
"""Longest pause, also when a receiver asks for a longer one."""

BATCH: Final = 100
"""Events read at once."""

ASK_S: Final = 1.0
"""Seconds between tries to hold a webhook that is disabled, or another process's."""

SETTLE_S: Final = 5.0
"""For writing down what came of a post, also when the server ends: else it is posted again."""

RENEW_S: Final = HOLD_S / 3
"""Seconds after which the hold on a webhook is renewed at the latest."""


class WebhookTeller:
    """Posts events to one webhook while this process holds it. At least once, in order."""

    def __init__(
        self,
        webhook: Webhook,
        store: Store,
        poster: Poster,
        *,
        holder: str,
        first_pause_s: float = FIRST_PAUSE_S,
        clock: Callable[[], float],
    ) -> None:
        self._webhook = webhook
        self._store = store
        self._poster = poster
        self._holder = holder
        self._first_pause_s = first_pause_s
        self._clock = clock
        self._changed = anyio.Event()

    def notice(self, webhook: Webhook) -> None:
        """Look again at once if the webhook is not as it was: enabled, or told to replay."""
        if webhook != self._webhook:
            self._webhook = webhook
            self._changed.set()

    async def run(self) -> None:
        """Tell until it is cancelled."""
        async with self._poster:
            while True:
                try:
                    await self._turn()
                except StorageError as error:
                    logger.warning("webhook %s waits: %s", self._webhook.id, error)
                    await anyio.sleep(RENEW_S)
                except Exception:
                    logger.exception("webhook %s waits", self._webhook.id)
                    await anyio.sleep(RENEW_S)

    async def _turn(self) -> None:
        """Tell what there is, or wait for something to change."""
        self._changed = anyio.Event()
        held = await self._store.webhooks.hold(self._webhook.id, self._holder)
        if held is None:
            await self._wait(ASK_S)
            return
        wait_s = held.webhook.next_try_at - self._clock()
        # No pause is longer: the clock went back.
        if 0 < wait_s <= MAX_PAUSE_S:
            await self._wait(min(wait_s, RENEW_S))
            return
        cursor, kinds = held.webhook.cursor, held.webhook.kinds
        batch = await self._store.outbox.after(cursor, BATCH, kinds=kinds)
        if batch.events:
            await self._deliver(held, batch)
        elif batch.upto > cursor:
            await self._store.webhooks.delivered(held, batch.upto, None)
        else:
            await self._wait(RENEW_S, for_more_than=cursor)

    async def _deliver(self, held: Held, batch: Batch) -> None:
        """Post the events until one fails, or the webhook is not ours any more."""
        for event in batch.events:
            renewed_at = anyio.current_time()
            answer = await self._poster.post(held.webhook, event)
            if anyio.current_time() - renewed_at > HOLD_S:
                # This process was frozen; whatever came of it, another may hold the webhook.
                return
            is_settled = False
            with anyio.move_on_after(SETTLE_S, shield=True):
                is_settled = await self._settle(held, event, answer)
            if not is_settled:
                return
            held = replace(held, webhook=replace(held.webhook, cursor=event.seq, failures=0))

    async def _settle(self, held: Held, event: Event, answer: Answer) -> bool:
        """Write down what came of it; True when the next event may be posted."""
        tried_at = self._clock() - answer.took_ms / 1000
        attempt = WebhookAttempt(event.seq, tried_at, answer.status, answer.error, answer.took_ms)
        if answer.error is None:
            return await self._store.webhooks.delivered(held, event.seq, attempt)
        failed = await self._store.webhooks.failed(
            held,
            attempt,
            pause_s=pause_s(held.webhook.failures, answer.retry_after_s, self._first_pause_s),
            is_last=answer.status == GONE,
        )
        if failed is not None:
            _log_failure(failed, event, answer)
        return False

    async def _wait(self, wait_s: float, *, for_more_than: int | None = None) -> None:
        """Until the webhook changes, an event comes where one is waited for, or time is over."""
        async with anyio.create_task_group() as tasks:

            async def until(come: Callable[[], object]) -> None:
                await come()  # type: ignore[misc]
                tasks.cancel_scope.cancel()

            tasks.start_soon(until, self._changed.wait)
            if for_more_than is None:
                tasks.start_soon(until, partial(anyio.sleep, wait_s))
            else:
                tasks.start_soon(until, partial(self._store.outbox.wait, for_more_than, wait_s))


def pause_s(failures: int, asked_s: float, first_s: float = FIRST_PAUSE_S) -> float:
    """How long to wait after so many failures before this one: full jitter, up to an hour."""
    longest = min(MAX_PAUSE_S, first_s * 2.0 ** min(failures, 30))
    jittered = random.uniform(0, longest)  # noqa: S311  # it spreads load, and guards nothing
    return min(MAX_PAUSE_S, max(jittered, asked_s))


def _log_failure(webhook: Webhook, event: Event, answer: Answer) -> None:
    if webhook.disabled_at is not None:
        logger.error(
            "webhook %s to %s is disabled: event %d %s; enable it by hand",
            *(webhook.id, webhook.origin, event.seq, answer.error),
        )
    elif webhook.failures == 1:
        logger.warning(
            "webhook %s to %s: event %d %s; it is tried again",
            *(webhook.id, webhook.origin, event.seq, answer.error),
        )


assert TIMEOUT_S < HOLD_S  # noqa: S101  # or a hold would end while one post is under way
