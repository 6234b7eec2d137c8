"""Addresses that events are posted to, and what became of it. Who posts is elsewhere."""

import base64
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from pydantic import JsonValue
from sqlalchemy import Connection, Row, Select, delete, select, update

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import outbox, outlets
from capturekit.store.schema import lock_ledger, outlet, webhook, webhook_attempt

MAX_WEBHOOKS: Final = 100
"""Each has a task, and is asked for once a second."""

MAX_URL: Final = 2000
"""Characters of an address."""

ATTEMPTS_KEPT: Final = 100
"""The newest of each webhook."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # it is no secret
"""As the Standard Webhooks specification writes a secret, in base64 after it."""

MIN_FAILURES: Final = 20
"""Failures in a row before a webhook is disabled, so that a clock that jumps disables none."""

DISABLED_AFTER_S: Final = 3 * 86400.0
"""Seconds of nothing but failures after which a webhook is disabled."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that events are posted to. Times are seconds since 1970, UTC."""

    id: str
    url: str = field(repr=False)
    kinds: tuple[str, ...]
    """Of the events to post; none means all."""
    created_at: float
    disabled_at: float | None
    """Since when nothing is posted; None while it works."""
    failures: int
    """In a row, since the last success."""
    failing_since: float | None
    next_try_at: float
    """Nothing is posted before, after a failure."""
    cursor: int
    """The number of the last event that was delivered, or that it does not want."""
    secret: str = field(repr=False)
    """Signs what is posted. Never shown after the webhook was made."""

    @property
    def origin(self) -> str:
        """The address without its path, which may hold a secret: for logs."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver an event."""

    event_seq: int
    tried_at: float
    """When it began, in seconds since 1970, UTC."""
    status: int | None
    """Of the answer; None when there was none."""
    error: str | None
    """Why it did not succeed; None when it did."""
    took_ms: float


@dataclass(frozen=True, slots=True)
class Held:
    """A webhook that this process posts to at the moment."""

    webhook: Webhook
    holder: str


class Webhooks:
    """The webhooks of a database; a change is followed by whoever posts within a second."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def add(
        self, url: str, *, kinds: Sequence[str] = (), after: int | None = None
    ) -> Webhook:
        """Post events from now on, or those past the number ``after``, to this address.

        ``webhook.secret`` of the answer is not shown again. Raises ValueError for an address
        that is none, or a kind that is not known, and Conflict when there are too many.
        """
        kinds = _checked_kinds(kinds)
        work = partial(_add, url=checked_url(url), kinds=kinds, after=after, at=self._clock())
        return await self._database.write(work)

    async def all(self) -> list[Webhook]:
        """Every webhook, the oldest first."""
        return await self._database.read(_all)

    async def get(self, id: str) -> Webhook:
        """The webhook; raises Unknown."""
        return await self._database.read(partial(get, id=id))

    async def remove(self, id: str) -> None:
        """Post nothing more to it, and forget it. Raises Unknown."""
        await self._database.write(partial(_remove, id=id))

    async def enable(self, id: str) -> Webhook:
        """Post to it again at once, beginning with what it missed. Raises Unknown."""
        return await self._database.write(partial(_enable, id=id))

    async def replay(self, id: str, *, after: int) -> Webhook:
        """Post all events past this number once more. Raises Unknown.

        What was pruned meanwhile is not posted.
        """
        return await self._database.write(partial(_replay, id=id, after=after))

    async def attempts(self, id: str) -> list[Attempt]:
        """The newest tries to deliver, the newest first. Raises Unknown."""
        return await self._database.read(partial(_attempts, id=id))

    async def hold(self, id: str, holder: str) -> Held | None:
        """Take or keep it for this process; None when another has it, or it is disabled or gone."""
        work = partial(_hold, id=id, holder=holder, at=self._clock())
        return await self._database.write(work, is_synced=False)

    async def delivered(self, held: Held, to: int, attempt: Attempt | None) -> bool:
        """The event of that number was taken. False when the webhook is not held any more.

        Without an attempt it was not wanted, nor were those before it.
        """
        work = partial(_delivered, held=held, to=to, attempt=attempt, at=self._clock())
        return await self._database.write(work, is_synced=False)

    async def failed(
        self, held: Held, attempt: Attempt, *, pause_s: float, is_last: bool = False
    ) -> Webhook | None:
        """The try failed; nothing is posted for ``pause_s``. None when it is not held any more.

        Disables the webhook when that was so for too long, or ``is_last``.
        """
        work = partial(
            _failed, held=held, attempt=attempt, pause_s=pause_s, is_last=is_last, at=self._clock()
        )
        return await self._database.write(work, is_synced=False)


def checked_url(url: str) -> str:
    """The address, if it is one that may be posted to; raises ValueError.

    Whether its host may be reached is asked when something is posted.
    """
    if len(url) > MAX_URL or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(f"the address of a webhook has 1 to {MAX_URL} characters, all ASCII")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("the address of a webhook is like https://HOST/PATH")
    if "@" in parts.netloc:
        raise ValueError("no user or password belongs in a webhook's address: it is signed")
    return parts._replace(fragment="").geturl()


def _checked_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    if unknown := sorted(set(kinds) - set(outbox.KINDS)):
        raise ValueError(
            f"there are no events {', '.join(unknown)}; kinds: {', '.join(outbox.KINDS)}"
        )
    return tuple(sorted(set(kinds)))


def _add(
    connection: Connection, url: str, kinds: tuple[str, ...], after: int | None, at: float
) -> Webhook:
    # Two that count at the same time would both find room.
    lock_ledger(connection)
    if len(_all(connection)) >= MAX_WEBHOOKS:
        raise Conflict(f"there are {MAX_WEBHOOKS} webhooks, as many as may be; remove one first")
    new_id = f"wh_{secrets.token_hex(8)}"
    cursor = outbox.newest(connection) if after is None else after
    connection.execute(outlet.insert().values(id=new_id, cursor=cursor))
    connection.execute(
        webhook.insert().values(
            id=new_id,
            url=url,
            secret=SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode(),
            kinds=list(kinds),
            created_at=at,
            failures=0,
            next_try_at=0.0,
        )
    )
    return get(connection, new_id)


def _query() -> Select[tuple[object, ...]]:
    return select(webhook, outlet.c.cursor).join(outlet, outlet.c.id == webhook.c.id)


def _webhook(row: Row[tuple[object, ...]]) -> Webhook:
    return Webhook(**{**row._mapping, "kinds": tuple(row.kinds)})  # noqa: SLF001  # its only name


def _all(connection: Connection) -> list[Webhook]:
    query = _query().order_by(webhook.c.created_at, webhook.c.id)
    return [_webhook(row) for row in connection.execute(query)]


def get(connection: Connection, id: str) -> Webhook:
    """The webhook; raises Unknown."""
    row = connection.execute(_query().where(webhook.c.id == id)).one_or_none()
    if row is None:
        raise Unknown("webhook", id)
    return _webhook(row)


def _remove(connection: Connection, id: str) -> None:
    lock_ledger(connection)
    get(connection, id)
    # Whoever notes a delivery just now has this row, or finds it gone.
    connection.execute(select(outlet.c.id).where(outlet.c.id == id).with_for_update())
    connection.execute(delete(webhook_attempt).where(webhook_attempt.c.webhook_id == id))
    connection.execute(delete(webhook).where(webhook.c.id == id))
    connection.execute(delete(outlet).where(outlet.c.id == id))


def _enable(connection: Connection, id: str) -> Webhook:
    get(connection, id)
    connection.execute(update(webhook).where(webhook.c.id == id).values(_AT_REST))
    return get(connection, id)


_AT_REST: Final = {
    "disabled_at": None,
    "failures": 0,
    "failing_since": None,
    "next_try_at": 0.0,
}
"""Of a webhook whose last try succeeded."""


def _replay(connection: Connection, id: str, after: int) -> Webhook:
    get(connection, id)
    connection.execute(update(outlet).where(outlet.c.id == id).values(cursor=max(0, after)))
    return get(connection, id)


def _attempts(connection: Connection, id: str) -> list[Attempt]:
    get(connection, id)
    columns = [webhook_attempt.c[name] for name in Attempt.__slots__]
    query = (
        select(*columns)
        .where(webhook_attempt.c.webhook_id == id)
        .order_by(webhook_attempt.c.id.desc())
        .limit(ATTEMPTS_KEPT)
    )
    return [Attempt(**row) for row in connection.execute(query).mappings()]


def _hold(connection: Connection, id: str, holder: str, at: float) -> Held | None:
    is_enabled = select(webhook.c.id).where(webhook.c.id == id, webhook.c.disabled_at.is_(None))
    if connection.scalar(is_enabled) is None:
        return None
    if outlets.hold(connection, id, holder, at) is None:
        return None
    return Held(get(connection, id), holder)


def _delivered(
    connection: Connection, held: Held, to: int, attempt: Attempt | None, at: float
) -> bool:
    of, cursor = held.webhook.id, held.webhook.cursor
    is_moved = outlets.advance(connection, of, held.holder, cursor, to, at)
    if attempt is None:
        return is_moved
    if is_moved and held.webhook.failures:
        connection.execute(update(webhook).where(webhook.c.id == of).values(_AT_REST))
    _keep(connection, of, attempt)
    return is_moved


def _failed(
    connection: Connection,
    held: Held,
    attempt: Attempt,
    pause_s: float,
    at: float,
    *,
    is_last: bool,
) -> Webhook | None:
    lock_ledger(connection)
    of = held.webhook.id
    is_held = outlets.is_at(of, held.holder, held.webhook.cursor)
    if connection.scalar(select(outlet.c.id).where(is_held)) is None:
        return None
    _keep(connection, of, attempt)
    now = get(connection, of)
    since = at if now.failing_since is None else now.failing_since
    is_too_long = now.failures + 1 >= MIN_FAILURES and at - since >= DISABLED_AFTER_S
    connection.execute(
        update(webhook)
        .where(webhook.c.id == of)
        .values(
            failures=webhook.c.failures + 1,
            failing_since=since,
            next_try_at=at + pause_s,
            disabled_at=at if is_last or is_too_long else None,
        )
    )
    if is_last or is_too_long:
        told: dict[str, JsonValue] = {
            "webhook_id": of,
            "failures": now.failures + 1,
            "error": attempt.error,
        }
        outbox.tell(connection, "webhook.disabled", told, at)
    return get(connection, of)


def _keep(connection: Connection, id: str, attempt: Attempt) -> None:
    """Remember the attempt, if its webhook was not removed meanwhile, and forget old ones."""
    if connection.scalar(select(webhook.c.id).where(webhook.c.id == id)) is None:
        return
    values = {name: getattr(attempt, name) for name in Attempt.__slots__}
    connection.execute(webhook_attempt.insert().values(webhook_id=id, **values))
    oldest_kept = (
        select(webhook_attempt.c.id)
        .where(webhook_attempt.c.webhook_id == id)
        .order_by(webhook_attempt.c.id.desc())
        .offset(ATTEMPTS_KEPT - 1)
        .limit(1)
        .scalar_subquery()
    )
    connection.execute(
        delete(webhook_attempt).where(
            webhook_attempt.c.webhook_id == id, webhook_attempt.c.id < oldest_kept
        )
    )
