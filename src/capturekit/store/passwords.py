"""Passwords as they are stored: hashed with scrypt (RFC 7914), each with its salt.

A hash says with which parameters it was made, so that others may be chosen for later ones.
"""

import hashlib
import hmac
import secrets
import unicodedata
from base64 import b64decode, b64encode
from typing import Final

LOG_N: Final = 15
BLOCK_SIZE: Final = 8
PARALLEL: Final = 3
"""scrypt's N (as a power of two), r and p: 32 MiB and a quarter of a second of one core for a try.
OWASP's Password Storage Cheat Sheet has them for equal to N = 2^17, p = 1, which take 128 MiB."""

MAX_MEMORY: Final = 64 * 2**20

MIN_CHARACTERS: Final = 12
MAX_CHARACTERS: Final = 256
"""Of a password. More would only cost: what is hashed first is as long as one likes."""


def generate() -> str:
    """A password of 120 random bits."""
    return secrets.token_urlsafe(15)


def require_strong(password: str) -> None:
    """Raise ValueError for a password that is too short or too long."""
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        raise ValueError(f"a password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters")


def hash_of(password: str) -> str:
    """What to store of a password; takes as long as a try does."""
    salt = secrets.token_bytes(16)
    return _written(salt, _scrypt(password, salt, LOG_N, BLOCK_SIZE, PARALLEL))


def is_right(password: str, stored: str) -> bool:
    """Whether this is the password of a hash; takes equally long for every wrong one."""
    _, log_n, block_size, parallel, salt, wanted = stored.split("$")
    numbers = (int(log_n), int(block_size), int(parallel))
    return hmac.compare_digest(_scrypt(password, b64decode(salt), *numbers), b64decode(wanted))


def _scrypt(password: str, salt: bytes, log_n: int, block_size: int, parallel: int) -> bytes:
    # Two keyboards may write one letter in two ways.
    typed = unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
    return hashlib.scrypt(
        typed, salt=salt, n=2**log_n, r=block_size, p=parallel, maxmem=MAX_MEMORY, dklen=32
    )


def _written(salt: bytes, hashed: bytes) -> str:
    parts = ("scrypt", str(LOG_N), str(BLOCK_SIZE), str(PARALLEL))
    return "$".join((*parts, b64encode(salt).decode(), b64encode(hashed).decode()))


OF_NOBODY: Final = _written(bytes(16), bytes(32))
"""Compared with where nobody has the name, so that it takes as long; no password is known."""
