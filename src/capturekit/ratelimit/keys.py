"""Whom a request counts for, what it costs, and whether it counts: small functions of a scope.

A key function names an account, or says None when it cannot; ``first_of`` and ``both`` make
one of several. Their names carry what they are (``ip:``, ``id:``), so that no caller can pose
as another kind.
"""

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from capturekit.ratelimit.asgi import Scope, header_lines
from capturekit.ratelimit.identity import ClientAddress

LONGEST_CLAIM = 64
"""Characters of a header that are kept as they are; a longer one is kept as its SHA-256."""

Key = Callable[[Scope], Awaitable[str | None] | str | None]
"""Names the account of a request; None when it cannot."""

Exempt = Callable[[Scope], Awaitable[bool] | bool]
"""Whether a request passes without spending."""

Cost = Callable[[Scope], Awaitable[int] | int]
"""What a request spends; 0 for nothing."""

T = TypeVar("T")


async def settled(answer: Awaitable[T] | T) -> T:
    """What a function that may be async or not has to say."""
    if not inspect.isawaitable(answer):
        return answer
    waited: T = await answer
    return waited


async def name_by(key: Key, scope: Scope) -> str | None:
    """What a key function says, whether it is async or not."""
    name = key(scope)
    return name if name is None or isinstance(name, str) else await name


def by_address(trusted: ClientAddress | Iterable[str] = ()) -> Key:
    """By the client's address as seen through ``trusted`` proxies: see ClientAddress."""
    address = trusted if isinstance(trusted, ClientAddress) else ClientAddress(trusted)
    return lambda scope: f"ip:{address(scope)}"


def by_header(name: str) -> Key:
    """By what the client wrote into a header; None without it.

    A header is a claim: a client that writes another one each time has as many quotas. Use it
    where something in front checks it, or ``both`` with what cannot be made up.
    """
    wanted = name.lower().encode("latin-1")
    prefix = f"header:{name.lower()}:"

    def key(scope: Scope) -> str | None:
        claim = ", ".join(header_lines(scope, wanted))
        if len(claim) > LONGEST_CLAIM:
            claim = "sha256:" + hashlib.sha256(claim.encode()).hexdigest()
        return prefix + claim if claim else None

    return key


def by_credential(verify: Key) -> Key:
    """By the name that ``verify`` gives for a credential that it has checked, or None."""

    async def key(scope: Scope) -> str | None:
        name = await name_by(verify, scope)
        return None if name is None else f"id:{name}"

    return key


def first_of(*keys: Key) -> Key:
    """By the first of these that is not None."""

    async def key(scope: Scope) -> str | None:
        for one in keys:
            name = await name_by(one, scope)
            if name is not None:
                return name
        return None

    return key


def both(*keys: Key) -> Key:
    """By all of these at once: every combination is an account. None if any of them is."""

    async def key(scope: Scope) -> str | None:
        names = [await name_by(one, scope) for one in keys]
        # With lengths, because ("a|b", "c") must not be ("a", "b|c").
        known = [f"{len(name)}:{name}" for name in names if name is not None]
        return "|".join(known) if len(known) == len(names) else None

    return key


def constant(name: str) -> Key:
    """One account for everyone."""
    return lambda _: f"all:{name}"


def content_length_cost(unit: int = 1024, *, without: int = 1) -> Cost:
    """The bytes that a request says it sends, in units rounded up; at least 1.

    Servers hold clients to the length they gave.

    Args:
        unit: Bytes for a cost of 1.
        without: The cost where no length is given: no body, or one in chunks of any size.
    """
    if unit < 1 or without < 1:
        raise ValueError(f"unit and without must be at least 1, not {unit} and {without}")

    def cost(scope: Scope) -> int:
        lengths = header_lines(scope, b"content-length")
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            return without
        return max(1, -(-int(lengths[0]) // unit))

    return cost
