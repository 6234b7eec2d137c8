"""Uploads as no client should send them, from a seed: the same number makes the same bytes.

Each is all that a client says on one connection. Some are so nearly right that they are taken.
"""

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TOKEN: Final = "TOKEN"
"""Stands in the bytes for the device's token."""

BOUNDARY: Final = "-----b0undary"
MAX_BYTES: Final = 100_000
"""Of a picture that the server is told to take."""

PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Malformed:
    """One of them."""

    kind: str
    data: bytes
    may_be_taken: bool = False
    """So little is wrong that storing the picture may be right."""


def malformed(number: int, seed: int, picture: bytes) -> Malformed:
    """The upload of this number; ``picture`` is a good one, which is in some of them."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choice(list(_KINDS))
    maker = _KINDS[kind]
    return Malformed(kind, maker(rng, picture), kind in _NEARLY_RIGHT)


# What uploads are made of


def _head(path: str, *fields: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *fields]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def _post(body: bytes, *fields: str, boundary: str = BOUNDARY, length: object = None) -> bytes:
    size = len(body) if length is None else length
    told = f"multipart/form-data; boundary={boundary}"
    return _head("/v1/ingest", f"Content-Type: {told}", f"Content-Length: {size}", *fields) + body


def _put(body: bytes, *fields: str, name: str = "boot-1", length: object = None) -> bytes:
    size = len(body) if length is None else length
    told = ("Content-Type: image/jpeg", f"Content-Length: {size}", *fields)
    return _head(f"/v1/devices/cam/frames/{name}", *told, method="PUT") + body


def _part(name: str, content: bytes, *fields: str) -> bytes:
    told = f'Content-Disposition: form-data; name="{name}"; filename="a.jpg"'
    head = "\r\n".join([f"--{BOUNDARY}", told, *fields, "", ""])
    return head.encode("latin-1") + content + b"\r\n"


def _image(content: bytes) -> bytes:
    told = 'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    return (
        f"--{BOUNDARY}\r\n{told}\r\nContent-Type: image/jpeg\r\n\r\n".encode() + content + b"\r\n"
    )


def _form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _noise(rng: random.Random, most: int) -> bytes:
    return rng.randbytes(rng.randrange(1, most))


def _words(rng: random.Random, most: int) -> str:
    return "".join(rng.choices(string.printable[:94], k=rng.randrange(1, most)))


# One of each kind


def _wrong_boundary(rng: random.Random, picture: bytes) -> bytes:
    wrong = ["", " ", '""', "x" * 300, "\x00", "a;b", "-" * 70, '"', _words(rng, 30), "\xff"]
    return _post(_form(_image(picture)), boundary=rng.choice(wrong))


def _no_form(rng: random.Random, picture: bytes) -> bytes:
    kinds = ["text/plain", "multipart/mixed", "application/json", "", "multipart/form-data", "/"]
    told = (f"Content-Type: {rng.choice(kinds)}", f"Content-Length: {len(picture)}")
    return _head("/v1/ingest", *told) + picture


def _cut_off(rng: random.Random, picture: bytes) -> bytes:
    whole = rng.choice([_post(_form(_image(picture))), _put(picture)])
    return whole[: rng.randrange(1, len(whole))]


def _wrong_length(rng: random.Random, picture: bytes) -> bytes:
    body = _form(_image(picture))
    near = len(body) + rng.choice([-1000, -10, -1, 1, 10, 1000, 10**6, 10**12])
    odd = [
        "-1",
        "1e3",
        "0x10",
        "",
        "9" * 30,
        "+5",
        f"{len(body)}, {len(body)}",
        "5\r\nContent-Length: 6",
    ]
    length: object = rng.choice([near, near, rng.choice(odd)])
    return rng.choice([_post(body, length=length), _put(picture, length=length)])


def _bad_chunks(rng: random.Random, picture: bytes) -> bytes:
    size = rng.choice(["zz", "-1", "f" * 16, "f" * 17, "", " 5", "5;" + "x" * 70_000, "1\n", "0x5"])
    good = f"{len(picture):x}\r\n".encode() + picture + b"\r\n"
    chunks = rng.choice([good, b""]) + size.encode() + b"\r\n" + picture[:100]
    codings = [
        "chunked",
        "chunked, chunked",
        "gzip, chunked",
        "identity",
        "chunked\r\nContent-Length: 9",
    ]
    told = ("Content-Type: image/jpeg", f"Transfer-Encoding: {rng.choice(codings)}")
    return _head("/v1/devices/cam/frames/boot-2", *told, method="PUT") + chunks


def _flood_of_fields(rng: random.Random, picture: bytes) -> bytes:
    flood = rng.choice([
        [f"X-{n}: {n}" for n in range(5000)],
        ["X: " + "y" * 200_000],
        ["Cookie: a=b"] * 3000,
        ["x" * 100_000 + ": y"],
    ])  # fmt: skip
    return _post(_form(_image(picture)), *flood)


def _odd_field(rng: random.Random, picture: bytes) -> bytes:
    odd = [
        "no colon",
        "A\x00: b",
        "A: b\x00c",
        ": empty",
        "A : b",
        "A: b\r\n folded",
        "A: \x7f\x01",
    ]
    return _post(_form(_image(picture))[:-10], rng.choice(odd))


def _odd_authorization(rng: random.Random, picture: bytes) -> bytes:
    odd = [
        "Bearer",
        "Bearer  ",
        "Basic \xff",
        "Bearer \xe9",
        "Bearer " + "a" * 20_000,
        _words(rng, 90),
    ]
    whole = rng.choice([_post(_form(_image(picture))), _put(picture)])
    return whole.replace(f"Bearer {TOKEN}".encode(), rng.choice(odd).encode("latin-1"))


def _zeros(rng: random.Random, picture: bytes) -> bytes:
    name = rng.choice(["ima\x00ge", "\x00", "image\x00", 'image"; x="\x00'])
    return _post(_form(_part(name, picture), _part("device_id", bytes(rng.randrange(1, 2000)))))


def _nested(rng: random.Random, picture: bytes) -> bytes:
    body = _image(picture)
    for depth in range(rng.randrange(1, 40)):
        told = f"Content-Type: multipart/mixed; boundary=b{depth}"
        body = _part("image", body, told)
    return _post(_form(body))


def _many_parts(rng: random.Random, _picture: bytes) -> bytes:
    return _post(_form(*[_part("f", b"x")] * rng.choice([200, 5000, 20_000])))


def _large_part(rng: random.Random, _picture: bytes) -> bytes:
    name = rng.choice(["metadata", "image", "device_id", "unknown"])
    return _post(_form(_part(name, bytes(rng.choice([MAX_BYTES + 1, 10**6, 3 * 10**6])))))


def _no_picture(rng: random.Random, _picture: bytes) -> bytes:
    names = ["token", "device_id", "metadata", "captured_at", "image"]
    parts = [_part(rng.choice(names), _noise(rng, 200)) for _ in range(rng.randrange(4))]
    return _post(_form(*parts))


def _false_picture(rng: random.Random, picture: bytes) -> bytes:
    found = rng.choice([
        _noise(rng, 5000),
        b"\xff\xd8\xff" + _noise(rng, 5000),
        PNG + _noise(rng, 5000),
        PNG + b"\x00\x00\x00\rIHDR" + _noise(rng, 60),
        picture[: rng.randrange(1, 300)],
        b"RIFF\xff\xff\xff\xffWEBP" + _noise(rng, 300),
        b"\x00\x00\x00\x18ftypheic" + _noise(rng, 300),
        b"GIF89a" + _noise(rng, 300),
        b"II*\x00" + _noise(rng, 300),
        b"<svg/>",
        b"",
    ])  # fmt: skip
    return rng.choice([_post(_form(_image(found))), _put(found)])


def _damaged_picture(rng: random.Random, picture: bytes) -> bytes:
    found = _changed(rng, picture)
    return rng.choice([_post(_form(_image(found))), _put(found, name=f"d-{rng.getrandbits(31)}")])


def _damaged_upload(rng: random.Random, picture: bytes) -> bytes:
    return _changed(rng, rng.choice([_post(_form(_image(picture))), _put(picture)]))


def _changed(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        # Mostly near the beginning, where the meaning is.
        at = rng.randrange(min(len(found), rng.choice([100, 600, len(found)])))
        how = rng.randrange(3)
        found[at : at + (how != 1)] = b"" if how == 0 else _noise(rng, 4)
    return bytes(found)


def _odd_frame(rng: random.Random, picture: bytes) -> bytes:
    names = ["x", "a-b-c", "-", "%00-1", "..%2f-1", "a-" + "9" * 40, "a" * 5000 + "-1", "\xff-1"]
    return _put(picture, name=rng.choice(names))


def _false_digest(rng: random.Random, picture: bytes) -> bytes:
    digests = ["sha-256=:AAAA:", "sha-256=:" + "A" * 43 + "=:", "sha-256=:A", "=:=", "\x01"]
    return _put(picture, f"Content-Digest: {rng.choice(digests)}", name="boot-3")


def _odd_meta(rng: random.Random, picture: bytes) -> bytes:
    odd = [
        "age=",
        "age=1e9",
        "age=-1",
        "a" * 9000,
        "age=?1, age",
        "rst=\xff",
        "bat=\x00",
        _words(rng, 300),
    ]
    return _put(picture, f"Capturekit-Meta: {rng.choice(odd)}", name=f"m-{rng.getrandbits(31)}")


def _no_http(rng: random.Random, _picture: bytes) -> bytes:
    return rng.choice([
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _noise(rng, 500),
        b"POST /v1/ingest HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1 x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\n\n\n\n",
        b"POST /v1/ingest\r\n\r\n",
        _noise(rng, 3000),
    ])  # fmt: skip


def _pipelined(rng: random.Random, picture: bytes) -> bytes:
    false = _form(_image(b"\xff\xd8\xff" + _noise(rng, 3000)))
    first = _post(false).replace(b"Connection: close\r\n", b"")
    rest = rng.choice([_noise(rng, 3000), first * 20, _post(false, length="-1"), picture])
    return first + rest


_KINDS: Final[dict[str, Callable[[random.Random, bytes], bytes]]] = {
    maker.__name__.strip("_"): maker
    for maker in (
        *(_wrong_boundary, _no_form, _cut_off, _wrong_length, _bad_chunks, _flood_of_fields),
        *(_odd_field, _odd_authorization, _zeros, _nested, _many_parts, _large_part, _no_picture),
        *(_false_picture, _damaged_picture, _damaged_upload, _odd_frame, _false_digest, _odd_meta),
        *(_no_http, _pipelined),
    )
}

_NEARLY_RIGHT: Final = {
    "wrong_length",
    "bad_chunks",
    "damaged_picture",
    "damaged_upload",
    "odd_meta",
    "nested",
}
