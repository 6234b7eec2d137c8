"""A pipeline's fingerprint: what decides its answers, as one SHA-256."""

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType

from pydantic import JsonValue

from capturekit.pipeline.plan import PlannedStage
from capturekit.pipeline.step import Json

FINGERPRINT_FORMAT = 2
"""Raised when the way a fingerprint is made changes; then all of them change."""


def described_stage(stage: PlannedStage) -> Json:
    """What of a stage decides the answer. Raises TypeError for a parameter without a form."""
    try:
        what = _canonical(stage.step)
    except RecursionError as error:
        raise TypeError(
            f"step {stage.name!r} refers to itself, so it cannot be part of a fingerprint: give "
            "it a `fingerprint` text that changes when it does"
        ) from error
    told: Json = {"name": stage.name, "version": stage.version, "what": what}
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
    if isinstance(value, FunctionType | MethodType | functools.partial):
        return _canonical_callable(value)
    return {"type": _type_name(value), "fields": _canonical(_fields(value))}


def _canonical_callable(value: FunctionType | MethodType | functools.partial[object]) -> JsonValue:
    if isinstance(value, MethodType):
        return {"method": _canonical(value.__func__), "of": _canonical(value.__self__)}
    if isinstance(value, functools.partial):
        return {"of": _canonical(value.func), "with": _canonical([value.args, value.keywords])}
    return _canonical_function(value)


def _canonical_function(function: FunctionType) -> JsonValue:
    """A function is its name, its text, what its code names, and the values it closes over."""
    try:
        text = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):
        # Made by exec: only its code tells it from another of that name.
        text = hashlib.sha256(function.__code__.co_code).hexdigest()
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return {
        "function": f"{_module_name(function.__module__)}.{function.__qualname__}",
        "text": text,
        "code": _canonical_code(function.__code__),
        "closed_over": _canonical(cells),
        "defaults": _canonical([function.__defaults__, function.__kwdefaults__]),
    }


def _canonical_code(code: CodeType) -> JsonValue:
    """What tells two lambdas on one line apart, the same for all versions of Python."""
    constants: list[JsonValue] = [
        _canonical_code(one) if isinstance(one, CodeType) else repr(one)
        for one in code.co_consts
        if not isinstance(one, str) or one != code.co_consts[0]
    ]
    return [list(code.co_names), constants]


def _module_name(name: str) -> str:
    """The module's name, also where it runs as a script: what it is imported by."""
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return name
    if main.__spec__ is not None:
        return main.__spec__.name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else name


def _fields(value: object) -> Mapping[str, object]:
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str):
        return {"fingerprint": own}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    if not found and not hasattr(value, "__dict__"):
        raise TypeError(
            f"{value!r} cannot be part of a pipeline's fingerprint: use plain values, or give "
            "it a `fingerprint` text that changes when it does"
        )
    return {**found, **getattr(value, "__dict__", {})}


def _type_name(value: object) -> str:
    return f"{_module_name(type(value).__module__)}.{type(value).__qualname__}"
