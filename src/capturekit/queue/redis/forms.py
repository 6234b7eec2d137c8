"""Jobs as they are kept in Redis, and back.

What a job was submitted as is JSON of version ``JOB_VERSION``, in two parts: the payload, and
all the rest but the id. Many jobs have the same rest, so it is made and read once.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

from pydantic import JsonValue

from capturekit.queue.base import (
    JOB_VERSION,
    Attempt,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    WorkerInfo,
    checked_json,
    worker_lost,
)

VERSION: Final = str(JOB_VERSION).encode()

_CACHED: Final = 1024

_REST: Final = (
    *("kind", "queue", "priority", "delay_s", "timeout_s", "batch"),
    *("unique_key", "unique_for_s", "concurrency_key", "max_running"),
)
_RETRY: Final = ("max_attempts", "base_s", "cap_s")

_ENCODER: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)

T = TypeVar("T")

Hash: TypeAlias = Mapping[bytes, bytes]
"""A job's fields as the server keeps them."""


def dumped(value: JsonValue) -> bytes:
    """The value as JSON. Raises ValueError for what is none, lone surrogates included."""
    return _ENCODER.encode(value).encode()


def loaded(text: bytes) -> JsonValue:
    """What ``dumped`` made. Raises ValueError for anything else."""
    value: JsonValue = _DECODER.decode(text.decode())
    # Only an escape can be a lone surrogate, and those that ``dumped`` makes are none.
    return checked_json(value) if b"\\ud" in text or b"\\uD" in text else value


def microseconds(seconds: float) -> bytes:
    """A time or a span, as the server counts."""
    return b"%d" % round(seconds * 1e6)


def seconds(microseconds: bytes | float) -> float:
    """And back."""
    return float(microseconds) / 1e6


def rest_of(job: Job) -> bytes:
    """The job as JSON, without its id and payload."""
    retry = job.retry
    return _rest(
        (
            *(job.kind, job.queue, job.priority, job.delay_s, job.timeout_s, job.batch),
            *(job.unique_key, job.unique_for_s, job.concurrency_key, job.max_running),
            *(retry.max_attempts, retry.base_s, retry.cap_s),
        )
    )


@lru_cache(_CACHED)
def _rest(values: tuple[str | float | None, ...]) -> bytes:
    given = zip(_REST + _RETRY, values, strict=True)
    fields: dict[str, JsonValue] = {name: value for name, value in given if value is not None}
    retry = {name: fields.pop(name) for name in _RETRY}
    return dumped({**fields, "retry": retry})


@lru_cache(_CACHED)
def _pattern(rest: bytes) -> Job:
    """A job whose id and payload are still missing. Raises ValueError."""
    return Job.model_validate({"id": "?", **_object(rest)})


def job_of(job_id: bytes, version: bytes, rest: bytes, payload: bytes) -> Job:
    """The job as it was submitted. Raises ValueError, with the reason."""
    if version != VERSION:
        raise ValueError(f"it is of version {version!r}, and this one knows {JOB_VERSION}")
    fields = _object(payload)
    # It was checked when it was submitted: a copy costs a fifth of checking it again.
    return _pattern(rest).model_copy(update={"id": job_id.decode(), "payload": fields})


def lease_words(lease: Lease) -> tuple[str, bytes, bytes]:
    """What fences a lease: its job, attempt and start.

    The start too: after Redis forgot everything attempts are counted from one again.
    """
    return lease.job.id, b"%d" % lease.attempt, microseconds(lease.started_at)


def error_text(error: JobError) -> bytes:
    """The error as it is kept."""
    return dumped(
        {
            "type": error.type,
            "message": _without_surrogates(error.message),
            "step": error.step,
            "attempt": error.attempt,
        }
    )


def _without_surrogates(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _error(text: bytes) -> JobError:
    found = _object(text)
    if "lost" in found:
        return worker_lost(str(found["lost"]), int(str(found["attempt"])))
    return JobError.model_validate(found)


def hash_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """The answer to HGETALL as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def status_of(job_id: str, kept: Hash, now_us: bytes) -> JobStatus:
    """All that is known about the job, whatever of it can be read.

    Raises ValueError or KeyError when not even its state can.
    """
    state, due = JobState(kept[b"state"].decode()), float(kept[b"due"])
    if state is JobState.SCHEDULED and due <= float(now_us):
        state = JobState.QUEUED
    attempts = tuple(_attempts(kept))
    rest = _what_is_read(kept.get(b"job", b""))
    return JobStatus.model_construct(
        id=job_id,
        kind=str(rest.get("kind", "")),
        queue=kept[b"queue"].decode(),
        state=state,
        priority=int(str(rest.get("priority", 0))),
        payload=_what_is_read(kept.get(b"payload", b"")),
        batch=kept[b"batch"].decode() if b"batch" in kept else None,
        progress=float(kept.get(b"progress", b"0")),
        attempts=attempts,
        queued_at=seconds(kept[b"at"]),
        started_at=attempts[-1].started_at if attempts else None,
        finished_at=seconds(kept[b"finished"]) if state.is_final else None,
        next_retry_at=seconds(due) if state is JobState.SCHEDULED else None,
        result=_if_read(loaded, kept.get(b"result")),
        error=_if_read(_error, kept.get(b"error")),
        is_cancel_requested=b"cancel" in kept,
    )


def _object(text: bytes) -> dict[str, JsonValue]:
    found = loaded(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  # of a text, not of an argument
    return found


def _what_is_read(text: bytes) -> dict[str, JsonValue]:
    """The JSON object; nothing of one that cannot be read, which is told by the job's error."""
    return _if_read(_object, text) or {}


def _if_read(read: Callable[[bytes], T], text: bytes | None) -> T | None:
    if text is None:
        return None
    try:
        return read(text)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _attempts(kept: Hash) -> Iterator[Attempt]:
    for line in kept.get(b"log", b"").splitlines():
        if (ended := _if_read(_attempt, line)) is not None:
            yield ended
    if kept[b"state"] == b"running":
        yield Attempt(
            number=int(kept[b"attempt"]),
            worker=str(_if_read(loaded, kept[b"worker"])),
            started_at=seconds(kept[b"started"]),
        )


def _attempt(line: bytes) -> Attempt:
    number, worker, started, finished, error = json.loads(line)
    return Attempt(
        number=number,
        worker=worker,
        started_at=seconds(started),
        finished_at=seconds(finished),
        error=None if error is None else _error(dumped(error)),
    )


def worker_text(worker: WorkerInfo) -> bytes:
    """The worker as it is kept, without what the queue knows better."""
    return dumped(worker.model_dump(mode="json", exclude={"heartbeat_at", "jobs"}))


def worker_of(text: bytes, beat_us: bytes, jobs: Sequence[str]) -> WorkerInfo:
    """And back."""
    fields = loaded(text)
    assert isinstance(fields, dict)  # noqa: S101  # ``worker_text`` made it
    return WorkerInfo.model_validate({**fields, "heartbeat_at": seconds(beat_us), "jobs": jobs})
