"""What people and tokens may do, and how they are called."""

import re
from enum import StrEnum
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Role(StrEnum):
    """What someone may do; each role may also do what those before it may."""

    VIEWER = "viewer"
    """Look at stock, pictures, reviews, events and the queue."""
    OPERATOR = "operator"
    """Change stock, items and places, decide reviews, have pictures processed."""
    ADMIN = "admin"
    """Everything: devices, webhooks, policies, storage, limits, tokens, people."""

    def covers(self, needed: "Role") -> bool:
        """Whether this role may do what ``needed`` may."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


def require_name(name: str) -> None:
    """Raise ValueError unless this can name a person or a token."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r}: use 1 to 64 letters (A to Z), digits, '.', '_', '@' and '-', with a "
            "letter or digit first"
        )
