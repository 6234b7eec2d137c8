"""Webhooks and attempts as programs read them, the same over HTTP and on the command line."""

from capturekit.store import Webhook, WebhookAttempt
from capturekit.times import iso


def webhook_row(webhook: Webhook) -> dict[str, object]:
    """A webhook, without its secret."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "kinds": list(webhook.kinds),
        "created_at": iso(webhook.created_at),
        "enabled": webhook.disabled_at is None,
        "disabled_at": iso(webhook.disabled_at),
        "failures": webhook.failures,
        "failing_since": iso(webhook.failing_since),
        "next_try_at": iso(webhook.next_try_at) if webhook.failures else None,
        "cursor": webhook.cursor,
    }


def attempt_row(attempt: WebhookAttempt) -> dict[str, object]:
    """A try to deliver an event."""
    return {
        "seq": attempt.event_seq,
        "tried_at": iso(attempt.tried_at),
        "status": attempt.status,
        "error": attempt.error,
        "took_ms": round(attempt.took_ms, 1),
    }
