"""Between taskiq's messages and our jobs, both ways."""

from typing import Final

from pydantic import BaseModel, JsonValue, TypeAdapter
from taskiq import TaskiqMessage

from capturekit.queue.base import Job, Lease, RetryPolicy

RESERVED: Final = "_taskiq"
"""The key of a payload under which a message keeps what is no keyword argument."""

ATTEMPT: Final = "_attempt"
"""The label under which a task finds the number of its attempt."""

RETRIES: Final = "_retries"
"""The label in which taskiq's retry middlewares count."""

JOB_LABELS: Final = {
    "queue_name": "queue",
    "queue": "queue",
    "priority": "priority",
    "delay": "delay_s",
    "timeout": "timeout_s",
    "batch": "batch",
    "unique_key": "unique_key",
    "unique_for_s": "unique_for_s",
    "concurrency_key": "concurrency_key",
    "max_running": "max_running",
}
"""Labels that say something about the job, and what of it. Of two for one, the later counts."""

RETRY_LABELS: Final = {
    "max_retries": "max_attempts",
    "max_attempts": "max_attempts",
    "retry_base_s": "base_s",
    "retry_cap_s": "cap_s",
}
"""The same of its retry policy. taskiq's ``max_retries`` counts the first attempt, too."""

_PAYLOAD: Final[TypeAdapter[dict[str, JsonValue]]] = TypeAdapter(dict[str, JsonValue])


class _Beyond(BaseModel):
    """What a taskiq message has beside its name, id and keyword arguments."""

    args: list[JsonValue] = []
    labels: dict[str, JsonValue] = {}
    labels_types: dict[str, int] | None = None


def job_of(message: TaskiqMessage, retry: RetryPolicy) -> Job:
    """The job that a message is. Raises ValueError."""
    labels = message.labels
    if RESERVED in message.kwargs:
        raise ValueError(f"a task's argument cannot be called {RESERVED!r}")
    told = {name: labels[label] for label, name in JOB_LABELS.items() if label in labels}
    policy = {name: labels[label] for label, name in RETRY_LABELS.items() if label in labels}
    if str(labels.get("retry_on_error")).lower() == "false":
        policy["max_attempts"] = 1
    payload = _PAYLOAD.validate_python(message.kwargs)
    if message.args or labels:
        beyond = _Beyond(args=message.args, labels=labels, labels_types=message.labels_types)
        payload[RESERVED] = beyond.model_dump()
    return Job.model_validate(
        {
            **told,
            "id": message.task_id,
            "kind": message.task_name,
            "payload": payload,
            "retry": {**retry.model_dump(), **policy},
        }
    )


def message_of(lease: Lease) -> TaskiqMessage:
    """The message that a job is. Raises pydantic's ValidationError, a ValueError."""
    message = bare_message(lease.job.id, lease.job.kind, lease.job.payload)
    message.labels |= {ATTEMPT: lease.attempt, RETRIES: lease.tries - 1}
    return message


def bare_message(id: str, kind: str, payload: dict[str, JsonValue]) -> TaskiqMessage:
    """The message as it was sent. Raises as ``message_of``."""
    beyond = _Beyond.model_validate(payload.get(RESERVED, {}))
    return TaskiqMessage(
        task_id=id,
        task_name=kind,
        labels=beyond.labels,
        labels_types=beyond.labels_types,
        args=list(beyond.args),
        kwargs={name: value for name, value in payload.items() if name != RESERVED},
    )
