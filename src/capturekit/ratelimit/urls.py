"""Which storage a URL names."""

from capturekit.errors import MissingExtra
from capturekit.ratelimit.decision import Storage
from capturekit.ratelimit.failover import DEADLINE_S, FailoverStorage, OnFailure
from capturekit.ratelimit.memory import MemoryStorage

SERVERS = ("redis", "rediss", "unix", "valkey", "valkeys")
"""What the scheme of a server's URL begins with; ``+sentinel`` or ``+cluster`` may follow."""


def open_storage(
    url: str, *, on_failure: OnFailure = "local", deadline_s: float = DEADLINE_S
) -> Storage:
    """The storage that a URL names, to share between limiters; nothing is connected yet.

    ``memory://`` is a MemoryStorage. A URL of RedisStorage is one inside a FailoverStorage
    with this policy and deadline. Raises ValueError for any other, without repeating what
    may hold a password, and MissingExtra when the redis library is missing.
    """
    scheme = url.partition(":")[0]
    if scheme == "memory":
        return MemoryStorage()
    if scheme.partition("+")[0] not in SERVERS:
        raise ValueError(
            "rate limits are kept in memory://, redis://, rediss://, unix://, valkey://, "
            "valkeys://, redis+sentinel:// or redis+cluster://, and not in what was given"
        )
    try:
        from capturekit.ratelimit.redis import RedisStorage
    except ImportError as error:
        raise MissingExtra("rate limits in Redis", "redis") from error
    return FailoverStorage(RedisStorage(url), on_failure=on_failure, deadline_s=deadline_s)
