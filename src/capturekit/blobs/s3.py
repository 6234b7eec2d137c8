"""Blobs in a bucket of S3, or of a server that speaks as it does, through obstore."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import S3Store

from capturekit.blobs.base import BlobUsage, StoredBlob, count, is_address, require_address
from capturekit.errors import (
    ConfigError,
    StorageCorrupt,
    StorageError,
    StorageReadOnly,
    StorageUnavailable,
    Unknown,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

CONNECT_S: Final = 3
REQUEST_S: Final = 20
"""How long one request may take, its body included."""

RETRY_S: Final = 10
"""How long a request is tried again that failed by the server's or the network's fault."""

MAX_RETRIES: Final = 3

OWNER: Final = "owner"
"""The object that says to which database the prefix belongs."""

OPTIONS: Final = ("endpoint", "region", "access_key_id", "secret_access_key", "session_token")
"""What the query of the URL may say."""


_AWAY: Final = ("HTTP error", "retries", "timed out", "status code: 5")
"""In messages about a server that is away or overloaded, which have no type of their own."""


class _AlreadyThere(StorageError):
    """Another object has that name."""


class S3Blobs:
    """Blobs as objects ``PREFIX/ab/cdef…`` of a bucket, which must exist.

    A put is one request and always sends the bytes: that costs less than to see whether what
    is there is still right. What is kept is durable when S3 answers. Listings are in order of
    keys, as S3's are (of directory buckets they are not).
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = _options(parts.query)
        if not parts.hostname:
            raise ConfigError("the URL of the blobs names no bucket: s3://BUCKET/PREFIX")
        # Not `hostname`, which is in lower case.
        self._name = parts.netloc.rpartition("@")[2]
        self._store = S3Store(
            self._name,
            prefix=unquote(parts.path).strip("/") or None,
            config=_config(options),
            client_options=_client(options.get("endpoint", "")),
            retry_config=_retries(),
        )

    async def put(self, content: bytes) -> str:
        """See Blobs. Raises StorageReadOnly, StorageUnavailable or StorageError."""
        sha256 = hashlib.sha256(content).hexdigest()
        with self._told():
            await obstore.put_async(self._store, _key(sha256), content, use_multipart=False)
        return sha256

    async def get(self, sha256: str) -> bytes:
        """See Blobs."""
        with self._told(sha256):
            answer = await obstore.get_async(self._store, _key(sha256))
            content = bytes(await answer.bytes_async())
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StorageCorrupt(f"blob {sha256} in bucket {self._name} is not what was written")
        return content

    async def delete(self, sha256: str) -> None:
        """See Blobs."""
        await self._remove(_key(sha256))

    async def stored(self) -> AsyncIterator[StoredBlob]:
        """See Blobs. A request for every thousand."""
        with self._told():
            async for page in obstore.list(self._store, chunk_size=1000):
                for found in page:
                    sha256 = found["path"].replace("/", "")
                    if is_address(sha256):
                        yield StoredBlob(sha256, found["size"], found["last_modified"].timestamp())

    async def usage(self) -> BlobUsage:
        """See Blobs."""
        return await count(self)

    async def owner(self) -> str | None:
        """See Blobs."""
        try:
            with self._told(OWNER):
                answer = await obstore.get_async(self._store, OWNER)
                return bytes(await answer.bytes_async()).decode().strip()
        except Unknown:
            return None

    async def claim(self, owner: str) -> str:
        """See Blobs. Of several that try at once one succeeds, where S3 knows If-None-Match."""
        try:
            with self._told():
                await obstore.put_async(
                    self._store, OWNER, owner.encode(), mode="create", use_multipart=False
                )
        except _AlreadyThere:
            pass
        return await self.owner() or owner

    async def check_writable(self) -> None:
        """See Blobs."""
        key = f"probe-{secrets.token_hex(8)}"
        with self._told():
            await obstore.put_async(self._store, key, b"probe", use_multipart=False)
        await self._remove(key)

    async def remove_unfinished(self, *, older_than_s: float = 0.0) -> None:
        """See Blobs. An object is there or not: nothing is left behind."""

    async def _remove(self, key: str) -> None:
        try:
            with self._told(key):
                await obstore.delete_async(self._store, key)
        except Unknown:
            # Some servers tell that it was not there.
            pass

    @contextmanager
    def _told(self, id: str = "") -> Iterator[None]:
        """What obstore raises leaves this block as ours, without the URL it was asked with."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or not id:
                raise self._no_bucket() from error
            raise Unknown("blob", id) from error
        except exceptions.AlreadyExistsError as error:
            raise _AlreadyThere(str(error)) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise self._denied() from error
        except exceptions.BaseError as error:
            raise self._failed(str(error)) from error

    def _no_bucket(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"there is no bucket {self._name!r}: make it, or correct CAPTUREKIT_BLOB_URL"
        )

    def _denied(self) -> StorageReadOnly:
        return StorageReadOnly(
            f"bucket {self._name!r} refuses this: see to the AWS_* credentials and what they "
            "allow (s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket)"
        )

    def _failed(self, message: str) -> StorageError:
        if "NoSuchBucket" in message:
            return self._no_bucket()
        if "403 Forbidden" in message or "AccessDenied" in message:
            return self._denied()
        cause = message.partition("\n")[0].partition(": <?xml")[0]
        kind = StorageUnavailable if any(sign in message for sign in _AWAY) else StorageError
        return kind(f"bucket {self._name!r}: {cause}")


def _key(sha256: str) -> str:
    require_address(sha256)
    return f"{sha256[:2]}/{sha256[2:]}"


def _options(query: str) -> Mapping[str, str]:
    options = dict(parse_qsl(query))
    if unknown := set(options) - set(OPTIONS):
        raise ConfigError(
            f"the URL of the blobs says {', '.join(sorted(unknown))}, which is none of "
            f"{', '.join(OPTIONS)}"
        )
    return options


def _config(options: Mapping[str, str]) -> "S3Config":
    config: S3Config = {}
    if endpoint := options.get("endpoint"):
        config["endpoint"] = endpoint
    if region := options.get("region"):
        config["region"] = region
    if key := options.get("access_key_id"):
        config["access_key_id"] = key
    if secret := options.get("secret_access_key"):
        config["secret_access_key"] = secret
    if token := options.get("session_token"):
        config["session_token"] = token
    return config


def _client(endpoint: str) -> "ClientConfig":
    return {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=REQUEST_S),
    }


def _retries() -> "RetryConfig":
    return {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
