"""A queue in Redis or Valkey, for many workers on many hosts.

Not a stream: a stream has one order and no way to take something out of the middle, and here
are priorities, delays, turns of keys and cancels. Each job is a hash, sorted sets say who is
next, and every operation is one Lua script in one round trip (``lua/common.lua`` says what is
kept where). A client that dies does so before an operation or after it, never inside.
"""

from capturekit.queue.redis.queue import RedisQueue

__all__ = ["RedisQueue"]
