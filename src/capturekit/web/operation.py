"""One route of the API, with all that its callers should know of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Access(StrEnum):
    """Whose token opens a route."""

    ANYONE = "anyone"
    DEVICE = "device"
    """A device's, for what is its own."""
    VIEWER = "viewer"
    """One of this role, or of one below; these three are those of ``store.Role``."""
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes of one of these media types."""

    media_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """``multipart/form-data`` with the fields of the model."""

    model: type[BaseModel]


Content: TypeAlias = type[BaseModel] | Raw | Form
"""What a body holds; a model is JSON."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A route. Its summary and description are the docstring of the endpoint."""

    method: str
    path: str
    """As starlette reads it."""
    endpoint: Endpoint
    answers: Mapping[int, Content | None]
    """By status; None has no body."""
    _: KW_ONLY
    access: Access = Access.ADMIN
    query: type[BaseModel] | None = None
    body: Content | None = None
    is_body_optional: bool = False
    headers: tuple[str, ...] = ()
    """Request headers with a meaning here; what they mean is in ``openapi.HEADERS``."""
    told_headers: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Headers of answers with a meaning of their own, by status."""
    limit: str | None = None
    """The rate limit that it is counted against, besides that of the address."""
    problems: tuple[int, ...] = ()
    """Statuses of refusals besides those that follow from the rest; see ``openapi``."""
    id: str = ""
    """Its name among all; the endpoint's unless given."""

    @property
    def name(self) -> str:
        """What generated clients call it."""
        return self.id or self.endpoint.__name__

    @property
    def template(self) -> str:
        """The path as people write it: ``/v1/items/{item_id}``."""
        return self.path.replace(":path}", "}")

    @property
    def is_done_once(self) -> bool:
        """Whether the first answer is kept under an Idempotency-Key; see ``repeats``."""
        has_own_keys = "Idempotency-Key" in self.headers
        is_for_people = self.access not in (Access.ANYONE, Access.DEVICE)
        return self.method == "POST" and is_for_people and not has_own_keys
