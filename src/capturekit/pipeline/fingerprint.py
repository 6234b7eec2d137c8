"""A pipeline's fingerprint: what decides its answers, as one SHA-256."""

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FunctionType

from pydantic import JsonValue

from capturekit.pipeline.plan import PlannedStage
from capturekit.pipeline.step import Json

FINGERPRINT_FORMAT = 2
"""Raised when the way a fingerprint is made changes; then all of them change."""


def described_stage(stage: PlannedStage) -> Json:
    """What of a stage decides the answer. Raises TypeError for a parameter without a form."""
    told: Json = {"name": stage.name, "version": stage.version, "what": _canonical(stage.step)}
    if stage.on_error != "fail":
        told["on_error"] = stage.on_error
    if stage.deadline_s is not None:
        told["deadline_s"] = _canonical(stage.deadline_s)
    if stage.when is not None:
        told["when"] = _canonical(stage.when)
    return told


def fingerprint(described: Json) -> str:
    """SHA-256 in hex, equal in every process."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> JsonValue:
    """A parameter as JSON that is equal for equal values in any process.

    Raises TypeError for a value that has no such form.
    """
    if isinstance(value, enum.Enum):
        return [type(value).__qualname__, value.name]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # 5 and 5.0 are equal parameters, and JSON does not tell them apart.
        return int(value) if value.is_integer() else {"float": repr(value)}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    return _canonical_object(value)


def _sorted(entries: Iterable[JsonValue]) -> list[JsonValue]:
    return sorted(entries, key=lambda entry: json.dumps(entry, sort_keys=True))


def _canonical_object(value: object) -> JsonValue:
    if isinstance(value, set | frozenset):
        return {"set": _sorted([_canonical(entry) for entry in value])}
    if isinstance(value, Mapping):
        pairs: list[JsonValue] = [[_canonical(k), _canonical(v)] for k, v in value.items()]
        return {"map": _sorted(pairs)}
    if isinstance(value, bytes | Path):
        return {type(value).__name__: value.hex() if isinstance(value, bytes) else str(value)}
    if isinstance(value, FunctionType):
        return _canonical_function(value)
    if isinstance(value, functools.partial):
        return {"of": _canonical(value.func), "with": _canonical([value.args, value.keywords])}
    return {"type": _type_name(value), "fields": _canonical(_fields(value))}


def _canonical_function(function: FunctionType) -> JsonValue:
    """A function is its name, its text where there is one, and the values it closes over."""
    try:
        text = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):
        text = ""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return {
        "function": f"{function.__module__}.{function.__qualname__}",
        "text": text,
        "closed_over": _canonical(cells),
        "defaults": _canonical([function.__defaults__, function.__kwdefaults__]),
    }


def _fields(value: object) -> Mapping[str, object]:
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str):
        return {"fingerprint": own}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    try:
        return vars(value)
    except TypeError:
        raise TypeError(
            f"{value!r} cannot be part of a pipeline's fingerprint: use plain values, or give "
            "it a `fingerprint` text that changes when it does"
        ) from None


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
