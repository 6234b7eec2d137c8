"""People and their sessions."""

from typing import Literal

from capturekit.wire.base import Answer, Moment
from capturekit.wire.tokens import Role


class SessionShown(Answer):
    """Who asks."""

    kind: Literal["token", "person"]
    name: str
    role: Role
    csrf_token: str | None
    """What a session sends as ``X-CSRF-Token`` to change something; null for a token."""


class PersonRow(Answer):
    """Someone who may sign in."""

    name: str
    role: Role
    created_at: Moment
    disabled_at: Moment | None


class PersonAdded(PersonRow):
    """Someone new."""

    password: str | None
    """One that was made here, shown this once; null where one was given."""


class PersonList(Answer):
    """Everyone, by name."""

    people: list[PersonRow]
