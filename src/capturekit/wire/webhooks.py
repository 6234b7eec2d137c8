"""Webhooks."""

from capturekit.wire.base import Answer, Moment


class WebhookRow(Answer):
    """An address that events are posted to."""

    id: str
    url: str
    kinds: list[str]
    created_at: Moment
    enabled: bool
    disabled_at: Moment | None
    failures: int
    failing_since: Moment | None
    next_try_at: Moment | None
    cursor: int
    """All events up to this number were told."""


class WebhookAdded(WebhookRow):
    """A webhook with its secret, which is shown this once."""

    secret: str


class WebhookList(Answer):
    """Every webhook, the oldest first."""

    webhooks: list[WebhookRow]


class WebhookTested(Answer):
    """What came of an event that was posted as a test."""

    status: int | None
    error: str | None
    took_ms: float


class AttemptRow(Answer):
    """A try to deliver an event."""

    seq: int
    tried_at: Moment
    status: int | None
    error: str | None
    took_ms: float


class AttemptList(Answer):
    """The newest tries."""

    attempts: list[AttemptRow]
