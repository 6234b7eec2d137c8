"""Devices that sign their uploads in place of sending their token.

The key is the SHA-256 of the device's token: the server has that, and nothing else of the token.
"""

import time
from typing import Final

from starlette.requests import Request

from capturekit.kit import CaptureKit
from capturekit.store import Principal
from capturekit.web.auth import REFUSAL, bearer_token, kit_of, principal_of
from capturekit.web.fields import content_digest
from capturekit.web.message_signatures import (
    BadSignature,
    MessageSignature,
    component_of,
    holds,
    read_signature,
    signature_base,
)
from capturekit.web.problems import Problem

MAX_SKEW_S: Final = 300
"""How far the time of a signature may be from ours."""

COVERED: Final = ("@method", "@path", "content-digest", "content-length")
COVERED_IF_SENT: Final = ("capturekit-meta", "idempotency-key")
"""What changes what an upload means. A form's type says how to take its body apart, too."""

NONCE_FIELD: Final = "Capturekit-Nonce"
_NOBODY: Final = bytes(32)


async def uploader_of(request: Request) -> Principal | None:
    """Who uploads, by signature or by token; None when neither is there.

    Raises Problem 401, with the nonce for another try, for a signature or a token that is wrong,
    and for a token alone where the device must sign.
    """
    kit = kit_of(request)
    if "signature-input" in request.headers or "signature" in request.headers:
        return await _signer(request, kit)
    principal = await principal_of(request.scope, kit)
    if principal is None and bearer_token(request.scope) is not None:
        raise await refusal(kit, "not-authorized", REFUSAL)
    if principal is not None:
        await require_unsigned(kit, principal)
    return principal


async def require_unsigned(kit: CaptureKit, principal: Principal) -> None:
    """Raise Problem 401 when the device's token alone is not enough."""
    if principal.is_signed_only:
        raise await refusal(kit, "signature-required", "this device must sign what it sends")


async def refusal(kit: CaptureKit, kind: str, detail: str) -> Problem:
    """A 401 with a nonce to sign the next try with; its ``Date`` sets the device's clock."""
    nonce = await kit.store.nonces.issue()
    return Problem(401, kind, detail, headers={NONCE_FIELD: nonce}, members={"nonce": nonce})


async def next_nonce(request: Request) -> dict[str, str]:
    """The field that spares a device that signs another question for a nonce."""
    if "signature-input" not in request.headers:
        return {}
    return {NONCE_FIELD: await kit_of(request).store.nonces.issue()}


async def _signer(request: Request, kit: CaptureKit) -> Principal:
    try:
        signature = read_signature(*(_field(request, name) for name in _FIELDS))
        _require_covered(request, signature)
        base = signature_base(signature, component_of(request))
    except BadSignature as error:
        raise await refusal(kit, "bad-signature", f"the signature: {error}") from error
    principal = None
    for candidate in await kit.store.devices.signers(signature.keyid):
        if holds(bytes.fromhex(candidate.credential_id), base, signature.value):
            principal = candidate
    if principal is None:
        # As long as for a device that is known.
        holds(_NOBODY, base, signature.value)
        raise await refusal(kit, "not-authorized", REFUSAL)
    await _require_fresh(kit, signature)
    return principal


_FIELDS: Final = ("signature-input", "signature")


def _field(request: Request, name: str) -> str:
    return ", ".join(request.headers.getlist(name))


def _require_covered(request: Request, signature: MessageSignature) -> None:
    sent = [name for name in COVERED_IF_SENT if name in request.headers]
    if request.method == "POST":
        sent.append("content-type")
    if missing := [name for name in (*COVERED, *sent) if name not in signature.components]:
        raise BadSignature(f"it must cover {', '.join(missing)}")
    if content_digest(request) is None:
        raise BadSignature("Content-Digest needs sha-256")


async def _require_fresh(kit: CaptureKit, signature: MessageSignature) -> None:
    if abs(time.time() - signature.created) > MAX_SKEW_S:
        detail = f"created is more than {MAX_SKEW_S} s from our time, which is in Date"
        raise await refusal(kit, "signature-too-old", detail)
    nonces = kit.store.nonces
    if not await nonces.is_good(signature.nonce):
        raise await refusal(kit, "nonce-refused", "the nonce is not ours or too old; take this one")
    if not await nonces.spend(signature.nonce, signature.value):
        raise await refusal(kit, "nonce-used", "the nonce was used; take this one")
