"""Tokens of the API."""

from typing import Literal, TypeAlias

from capturekit.wire.base import Answer, Moment

Role: TypeAlias = Literal["viewer", "operator", "admin"]


class TokenRow(Answer):
    """A token without its secret."""

    id: str
    name: str
    role: Role
    created_at: Moment
    expires_at: Moment | None
    """When it ends, or has ended; null for one that holds until it is revoked."""


class TokenList(Answer):
    """Every token, the oldest first."""

    tokens: list[TokenRow]


class TokenAdded(TokenRow):
    """A token with its secret, which is shown this once."""

    token: str
