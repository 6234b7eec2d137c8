"""What an operator may set, and from where.

Strongest first: arguments, ``CAPTUREKIT_*`` variables, a ``.env`` file, ``capturekit.toml``
(both in the working directory), defaults. Only the composition root and the command line
read this; everything below takes plain arguments.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from capturekit.errors import ConfigError

DEFAULT_RATE_LIMITS: Final = {
    "ingest": "10/minute",
    "process-capture": "20/minute",
    "process-pending": "5/minute",
    "claim": "10/minute",
    "ip": "1200/minute",
    "login": "10/minute",
    "login-name": "5/minute",
    "auth-failures": "30/minute",
}
"""Per identity, but five. By address go ``ip``, everything that one sends, unknown paths included,
``claim``, tries to use a code, ``login``, tries to sign in, and ``auth-failures``, wrong tokens; by
name go tries to sign in as ``login-name``."""


QUEUE_SCHEMES: Final = (
    "sql",
    "memory",
    "redis",
    "rediss",
    "unix",
    "valkey",
    "valkeys",
    "postgresql",
    "postgres",
    "sqlite",
)
"""Of the URLs that name a queue."""

DATABASE_SCHEMES: Final = ("postgresql", "postgres", "sqlite")
"""Of the URLs that name a database."""

LoadSignal: TypeAlias = Literal["queue", "event_loop", "memory", "pressure"]


class Settings(BaseSettings):
    """Everything that can be set. Prints without its secrets; wrong values are ConfigError."""

    model_config = SettingsConfigDict(
        env_prefix="CAPTUREKIT_",
        env_file=".env",
        toml_file="capturekit.toml",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    data_dir: Path = Path("capturekit-data")
    """Folder for the database and the pictures; made when it is missing."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port to listen on; 0 takes a free one and says which."""
    tls_cert: Path | None = None
    """PEM file with the server's certificate and those between it and its root; with tls_key the
    server speaks HTTPS."""
    tls_key: Path | None = None
    """PEM file with the certificate's key."""
    plain_http: bool = False
    """Acknowledges that an address other than this host's is served without TLS and without a
    trusted proxy: whoever is on the way reads tokens and pictures. Else such a server does not
    start."""
    queue_url: SecretStr = SecretStr("sql://")
    """Where jobs are kept. ``sql://``: in the database, with the captures. ``redis://HOST:PORT/DB``
    (also ``rediss``, ``unix``, ``valkey``, and ``+sentinel`` or ``+cluster`` after them):
    Redis or Valkey. ``postgresql://USER@HOST/NAME``: a database of its own. ``memory://``: in
    the server's process. Captures that wait are found again whatever the queue loses."""
    queues: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated names of the queues to take jobs from; default: all. Pictures wait in
    ``default``, the library's own housekeeping in ``maintenance``."""
    max_queued: Annotated[int, Field(ge=1)] | None = None
    """Jobs that may wait. Beyond it uploads are refused with 503 and nothing is kept. Default:
    no bound; in memory 10,000."""
    concurrency: Annotated[int, Field(ge=0, le=64)] = min(os.cpu_count() or 1, 8)
    """Pictures processed at once inside the server; 0 leaves all work to workers."""
    executor: Literal["thread", "process"] = "thread"
    """Where pictures are processed. In a thread a picture that is cancelled or takes too long is
    given up, and its thread runs on to the end of its step; a process is killed at once, and a
    picture that crashes the decoder takes nothing else with it. Costs some milliseconds more."""
    child_max_jobs: Annotated[int, Field(ge=1)] | None = None
    """Pictures after which a process of the executor is replaced by a fresh one."""
    child_max_memory_bytes: Annotated[int, Field(ge=2**20)] | None = None
    """Resident memory at which a process of the executor is replaced by a fresh one."""
    device_concurrency: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Pictures of one device processed at once, over all workers, so that one that sends a
    thousand does not hold up the others. Default: no such limit."""
    pipeline: str | None = None
    """``module:attr`` of a ProcessingPipeline, or a ``.json`` file that describes one; default:
    quality, codes, thumbnail."""
    isolate_decoding: bool = False
    """Decode every picture in a child process with limits on CPU and memory, which a hostile
    file can only kill; for pictures from strangers. Costs a few milliseconds a picture."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Observations with less confidence wait for a person and do not change stock."""
    admin_token: SecretStr | None = None
    """Token for the admin API; when not set one is made at first start and shown once."""
    rate_limits: Annotated[dict[str, str], NoDecode] = DEFAULT_RATE_LIMITS
    """``off``, or rules by name such as ``ingest=10/minute, ip=1200/minute``; names left out
    keep their default. Names: ingest, process-capture, process-pending; by address ip, claim,
    login (tries to sign in), auth-failures (wrong tokens); by name login-name. ``off`` also lets
    passwords be guessed without a limit."""
    adaptive_limits: bool = True
    """Whether uploads are limited more under load: the limit on them falls to a half as the
    wait of a new picture nears TARGET_WAIT_S, and beyond it they are refused with 503."""
    target_wait_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that a new picture should wait for its turn at most."""
    load_signals: Annotated[tuple[LoadSignal, ...], NoDecode] = ("queue",)
    """Comma-separated: what scales the limit on uploads, the highest load of ``queue``,
    ``event_loop``, ``memory`` and ``pressure`` (the kernel's PSI)."""
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Comma-separated CIDRs of the proxies whose ``Forwarded`` headers are believed."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated origins, such as ``https://shop.example``, whose pages may use the API with a
    token. Never with the cookie of someone who signed in. Default: none."""
    max_upload_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 20 * 2**20
    """Largest picture taken, in bytes."""
    max_pixels: Annotated[int, Field(ge=1, le=10**9)] = 25_000_000
    """Largest picture decoded, width x height."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Times a picture's processing is tried in all."""
    job_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds one attempt may take."""
    job_lease_s: Annotated[float, Field(ge=1)] = 15.0
    """Seconds without a sign of life after which a worker's job is given to another."""
    job_retention_s: Annotated[float, Field(ge=60)] = 7 * 86400.0
    """Seconds a finished job stays known."""
    max_finished_jobs: Annotated[int, Field(ge=0)] = 100_000
    """Finished jobs that stay known at most; the oldest go first."""
    job_grace_s: Annotated[float, Field(ge=0)] = 10.0
    """Seconds that running jobs get to finish after SIGTERM, before they are handed back."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged to standard error."""
    log_format: Literal["console", "json"] = "console"
    """How lines are logged: for people, or a JSON object a line with the ids of request, capture
    and job."""
    redis_url: SecretStr | None = None
    """Redis or Valkey server in which rate limits are kept, so that several servers share them:
    ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``, ``redis+cluster://``. While
    it does not answer, each server limits by itself. Default: memory of the server."""
    database_url: SecretStr | None = None
    """Where captures, devices and stock are kept: ``postgresql://USER:PASSWORD@HOST/NAME``, which
    any number of servers and workers share, or ``sqlite:////PATH.db``. Default: SQLite in
    data_dir."""
    webhook_allow_private: bool = False
    """Whether events may be posted to private addresses, such as ``http://192.168.1.20:8123/``. Not
    by default: whoever has an admin token could have the server ask what only the server
    reaches."""
    mqtt_url: SecretStr | None = None
    """Broker to tell what happens, with sensors for Home Assistant:
    ``mqtt://USER:PASSWORD@HOST:PORT/PREFIX``, or ``mqtts://``. PREFIX, by default ``capturekit``,
    begins the topics, and tells installations at one broker apart. Default: none."""
    event_retention_days: Annotated[float, Field(gt=0)] = 7.0
    """Days for which events can be replayed. One that an enabled webhook was not told stays
    longer."""
    blob_url: SecretStr | None = None
    """Where pictures are kept: ``s3://BUCKET/PREFIX?endpoint=URL&region=NAME``, with credentials
    from the ``AWS_*`` variables, or ``file:///FOLDER``. The servers and workers of a database need
    the same one. Default: files in data_dir."""
    watch: Annotated[dict[str, Path], NoDecode] = {}
    """Folders from which pictures are taken, by device: ``shelf-1=/srv/in/1, shelf-2=/srv/in/2``.
    ``*=/srv/in`` stands for a folder whose subfolders are named after devices. Default: none."""
    watch_done: Literal["move", "delete", "keep"] = "move"
    """What becomes of a file there whose picture was stored. ``move``: to the folder ``done`` in
    it."""
    poll: Annotated[dict[str, SecretStr], NoDecode] = {}
    """Cameras that are asked for pictures, by device, with spaces between them:
    ``shelf-1=http://192.168.1.40/capture door=rtsp://USER:PASSWORD@192.168.1.41/stream1``. ``http``
    and ``https`` answer with a picture; ``rtsp``, ``rtsps`` and ``stream+http`` are streams, of
    which a frame is taken. Default: none."""
    poll_every_s: Annotated[float, Field(ge=0.1)] = 60.0
    """Seconds from one picture of such a camera to the next."""
    poll_limit: str = "60/minute"
    """How often one host is asked at most, whatever cameras are behind it."""
    retention_days: Annotated[float, Field(gt=0)] | None = None
    """Days after which a picture is removed; what was seen on it stays. Not removed is a picture
    that stock rests on or that a person is to look at. Default: none is removed."""
    retention_bytes: Annotated[int, Field(ge=0)] | None = None
    """Bytes of pictures kept at most, as they were uploaded; the oldest are removed, with the same
    exceptions. Default: no bound."""

    @classmethod
    def load(cls, **arguments: object) -> Self:
        """Settings from all sources; arguments that are None count as not given.

        Raises ConfigError with the name of each setting that is wrong.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            # Values are checked by the fields; only their names are known here.
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"capturekit.toml cannot be read: {error}") from error

    @classmethod
    def given_names(cls) -> list[tuple[str, str]]:
        """Where something of ours is set, and by which name, be it known or not.

        The places are ``environment``, ``.env`` and ``capturekit.toml``.
        """
        prefix = "CAPTUREKIT_"
        in_file = DotEnvSettingsSource(cls).env_vars
        return [
            *(("environment", name) for name in sorted(os.environ) if name.startswith(prefix)),
            # Read without regard to capitals.
            *((".env", name.upper()) for name in in_file if name.upper().startswith(prefix)),
            *(("capturekit.toml", name) for name in TomlConfigSettingsSource(cls)()),
        ]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order of the module's docstring."""
        del file_secret_settings
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, dotenv_settings, toml

    @field_validator("rate_limits", mode="before")
    @classmethod
    def _parse_rate_limits(cls, value: object) -> dict[str, str]:
        if value == "off":
            return {}
        given = _rules(value) if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            # pydantic turns a ValueError into its own; a TypeError would escape.
            raise ValueError(  # noqa: TRY004
                "give 'off', a text such as 'ingest=10/minute', or a table"
            )
        if unknown := set(given) - set(DEFAULT_RATE_LIMITS):
            names = ", ".join(DEFAULT_RATE_LIMITS)
            raise ValueError(f"no limit is named {', '.join(sorted(unknown))}; names: {names}")
        return DEFAULT_RATE_LIMITS | {str(name): str(rule) for name, rule in given.items()}

    @field_validator("watch", mode="before")
    @classmethod
    def _parse_watch(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return _pairs(value, ",", "'shelf-1=/srv/in/one, shelf-2=/srv/in/two'")

    @field_validator("poll", mode="before")
    @classmethod
    def _parse_poll(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return _pairs(value, None, "'shelf-1=http://HOST/capture door=rtsp://HOST/stream'")

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _parse_proxies(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"{origin!r} is no origin; write https://shop.example")
        return value

    @field_validator("load_signals", "queues", "cors_origins", mode="before")
    @classmethod
    def _parse_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("queue_url")
    @classmethod
    def _check_queue_url(cls, value: SecretStr) -> SecretStr:
        scheme, colon, _ = value.get_secret_value().partition("://")
        if not colon or scheme.partition("+")[0] not in QUEUE_SCHEMES:
            raise ValueError(f"begins with none of {', '.join(QUEUE_SCHEMES)}, then ://")
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        scheme = "" if value is None else value.get_secret_value().partition(":")[0]
        if value is not None and scheme.partition("+")[0] not in DATABASE_SCHEMES:
            raise ValueError(f"begins with none of {', '.join(DATABASE_SCHEMES)}, then ://")
        return value

    @field_validator("blob_url")
    @classmethod
    def _check_blob_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("s3://", "file:///")):
            raise ValueError("begins with none of s3://, file:///")
        return value

    @property
    def database_path(self) -> Path | None:
        """The SQLite file; None when the database is on a server."""
        if self.database_url is None:
            return self.data_dir.absolute() / "capturekit.db"
        scheme, _, path = self.database_url.get_secret_value().partition("://")
        return Path(path.removeprefix("/")) if scheme.startswith("sqlite") else None

    @property
    def blobs(self) -> str:
        """The URL of the blobs. It may hold a secret."""
        if self.blob_url is None:
            return (self.data_dir.absolute() / "blobs").as_uri()
        return self.blob_url.get_secret_value()

    @property
    def database(self) -> str:
        """The database's URL. It may hold a password."""
        if self.database_url is None:
            return f"sqlite:///{self.database_path}"
        return self.database_url.get_secret_value()


def _rules(text: str) -> dict[str, str]:
    """``name=rule, name=rule`` or a JSON object; a rule may hold several, joined by ``;``."""
    if text.lstrip().startswith("{"):
        return {str(name): str(rule) for name, rule in json.loads(text).items()}
    return _pairs(text, ",", "'off' or like 'ingest=10/minute, ip=1200/minute'")


def _pairs(text: str, separator: str | None, form: str) -> dict[str, str]:
    """``name=value`` and more of them. ``form`` is told when the text is not like that."""
    pairs = [pair.partition("=") for pair in text.split(separator) if pair.strip()]
    found = {name.strip(): value.strip() for name, _, value in pairs}
    if not all(name and value for name, value in found.items()) or len(found) < len(pairs):
        raise ValueError(f"give {form}, each name once")
    return found


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        parts.append(f"CAPTUREKIT_{name.upper()}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)
