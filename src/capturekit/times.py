"""Times as people and programs read them."""

from datetime import UTC, datetime


def iso(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond; None stays None."""
    if seconds is None:
        return None
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
