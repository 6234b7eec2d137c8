"""HTTP message signatures by HMAC-SHA256 (RFC 9421): what was signed, and whether it holds.

Only what our routes need: one signature a request, of whole fields and of ``@method``, ``@path``
and ``@authority``.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import http_sf
from starlette.requests import Request

MAX_BYTES: Final = 2048
"""Longest ``Signature-Input`` that is looked at."""

ALGORITHM: Final = "hmac-sha256"


class BadSignature(Exception):
    """A signature that cannot be read, or covers what is not there."""


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A signature with what it covers and how it was made."""

    components: tuple[str, ...]
    keyid: str
    created: int
    """Seconds since 1970 by the signer's clock."""
    nonce: str
    value: bytes
    parameters: str
    """All of it but the value, as it is signed itself."""


Component = Callable[[str], str | None]
"""The value of a component of the message by its name; None where the message has none."""


def read_signature(signature_input: str, signature: str) -> MessageSignature:
    """The signature in these two fields. Raises BadSignature, which says what is missing."""
    inputs = _dictionary(signature_input)
    values = _dictionary(signature)
    if len(inputs) != 1 or inputs.keys() != values.keys():
        raise BadSignature("give one signature, with the same label in both fields")
    ((label, (items, parameters)),) = inputs.items()
    value = values[label][0]
    if not isinstance(items, list) or not isinstance(value, bytes):
        raise BadSignature("Signature-Input is a list of components, Signature a byte sequence")
    if parameters.get("alg") != ALGORITHM:
        raise BadSignature(f'alg must be "{ALGORITHM}"')
    keyid, created, nonce = (parameters.get(name) for name in ("keyid", "created", "nonce"))
    if not isinstance(keyid, str) or not isinstance(created, int) or not isinstance(nonce, str):
        raise BadSignature("give keyid and nonce as strings and created as an integer")
    return MessageSignature(
        _components(items), keyid, created, nonce, value, _serialized(items, parameters)
    )


def signature_base(signature: MessageSignature, component: Component) -> bytes:
    """What was signed (RFC 9421, 2.5). Raises BadSignature for what the message has not."""
    return _base(signature.components, signature.parameters, component)


def holds(key: bytes, base: bytes, value: bytes) -> bool:
    """Whether the key made this value of this base; takes as long whatever differs."""
    return hmac.compare_digest(hmac.digest(key, base, hashlib.sha256), value)


def component_of(request: Request) -> Component:
    """The components of a request as it came in."""

    def value(name: str) -> str | None:
        match name:
            case "@method":
                return request.method
            case "@path":
                return request.scope["raw_path"].decode("latin-1") or "/"
            case "@authority":
                return request.headers.get("host", "").lower()
        found = request.headers.getlist(name)
        return ", ".join(one.strip() for one in found) if found else None

    return value


def _base(components: tuple[str, ...], parameters: str, component: Component) -> bytes:
    lines = []
    for name in components:
        value = component(name)
        if value is None:
            raise BadSignature(f"the signature covers {name}, which the request has not")
        lines.append(f'"{name}": {value}')
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode("latin-1")


def _components(items: list[tuple[object, dict[str, object]]]) -> tuple[str, ...]:
    names = []
    for name, parameters in items:
        if not isinstance(name, str) or parameters or name != name.lower():
            raise BadSignature("components are names in small letters without parameters")
        if name.startswith("@") and name not in ("@method", "@path", "@authority"):
            raise BadSignature(f"the component {name[:40]} is not known here")
        names.append(name)
    if len(set(names)) != len(names):
        raise BadSignature("each component may be covered once")
    return tuple(names)


def _serialized(items: object, parameters: object) -> str:
    # The library's types do not name what it takes and gives.
    member = cast("http_sf.DictionaryType", {"x": (items, parameters)})
    return http_sf.ser(member).removeprefix("x=")


def _dictionary(text: str) -> dict[str, tuple[object, dict[str, object]]]:
    if len(text) > MAX_BYTES:
        raise BadSignature(f"more than {MAX_BYTES} bytes")
    try:
        parsed = http_sf.parse(text.encode("latin-1"), tltype="dictionary")
    except ValueError as error:
        raise BadSignature(f"no structured dictionary: {error}") from error
    return cast("dict[str, tuple[object, dict[str, object]]]", parsed)
