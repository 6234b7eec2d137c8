"""The operations of the queue, as Lua that the server runs."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("capturekit.queue.redis") / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script, and the name under which a server that saw it keeps it."""

    text: bytes
    sha: bytes


def _script(name: str, *, stands_alone: bool = False) -> Script:
    names = [name] if stands_alone else ["common", name]
    text = "\n".join((_FOLDER / f"{each}.lua").read_text("utf-8") for each in names).encode()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


SUBMIT: Final = _script("submit")
CLAIM: Final = _script("claim")
FINISH: Final = _script("finish")
BEAT: Final = _script("beat")
ORDERS: Final = _script("orders", stands_alone=True)
QUIET: Final = _script("quiet")
STATUS: Final = _script("status")
STEER: Final = _script("steer")
