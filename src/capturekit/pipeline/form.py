"""A pipeline as a JSON document, and back.

A step is written as the name of its entry point (group ``capturekit.steps``), else as
``module:attribute``, with its parameters. The document has a format number of its own.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from capturekit.errors import CaptureKitError, ConfigError
from capturekit.picture import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, OnDamage
from capturekit.pipeline.step import (
    Condition,
    Json,
    OnError,
    Stage,
    Step,
    When,
    staged,
    step_name,
    step_version,
)

if TYPE_CHECKING:
    from capturekit.pipeline.run import ProcessingPipeline

FORMAT: Final = 1
ENTRY_POINTS: Final = "capturekit.steps"


class _StepDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    step: Annotated[str, Field(min_length=1)]
    version: int | str | None = None
    parameters: Annotated[Json, Field(alias="with")] = {}
    on_error: OnError = "fail"
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    when: str | When | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    capturekit_pipeline: Literal[1]
    on_damage: OnDamage = "refuse"
    max_bytes: Annotated[int, Field(ge=1)] = DEFAULT_MAX_BYTES
    max_pixels: Annotated[int, Field(ge=1)] = DEFAULT_MAX_PIXELS
    colour: bool | None = None
    isolated: bool = False
    steps: list[_StepDocument]


# Writing


def document_of(pipeline: "ProcessingPipeline") -> Json:
    """See ``ProcessingPipeline.as_json``."""
    document = _Document(
        capturekit_pipeline=FORMAT,
        on_damage=pipeline.on_damage,
        max_bytes=pipeline.max_bytes,
        max_pixels=pipeline.max_pixels,
        colour=pipeline.colour,
        isolated=pipeline.isolated,
        steps=[_step_document(staged(step)) for step in pipeline.steps],
    )
    return document.model_dump(mode="json", by_alias=True)


def _step_document(stage: Stage) -> _StepDocument:
    step = stage.step
    is_own = is_dataclass(step) and not isinstance(step, type)
    return _StepDocument(
        step=_written(type(step) if is_own else step),
        version=step_version(step),
        parameters=_parameters(step) if is_own else {},
        on_error=stage.on_error,
        deadline_s=stage.deadline_s,
        when=_condition_document(stage.when),
    )


def _written(thing: object) -> str:
    """The name from which exactly this class or function is found again."""
    place = f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', '')}"
    for name, entry in _entry_points().items():
        if entry.value == place:
            return name
    try:
        is_found = found_at(place) is thing
    except (ImportError, AttributeError):
        is_found = False
    if not is_found or place.startswith("__main__:"):
        raise TypeError(
            f"step {step_name(thing)!r} cannot be written: only a dataclass or a function at the "
            "top of a module can be found again by its name"
        )
    return place


def _parameters(step: object) -> Json:
    try:
        return dict(TypeAdapter(type(step)).dump_python(step, mode="json"))
    except (ValueError, TypeError) as error:
        raise TypeError(f"step {step_name(step)!r} cannot be written: {error}") from error


def _condition_document(when: Condition | None) -> str | When | None:
    return when if when is None or isinstance(when, When) else _written(when)


# Reading


class Arguments(TypedDict):
    """What a pipeline is made with."""

    steps: tuple[Step, ...]
    on_damage: OnDamage
    max_bytes: int
    max_pixels: int
    colour: bool | None
    isolated: bool


def read_document(document: Mapping[str, JsonValue] | str) -> Arguments:
    """The arguments of the pipeline that a document describes. Raises ConfigError."""
    try:
        if isinstance(document, str):
            read = _Document.model_validate_json(document)
        else:
            read = _Document.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"this is no pipeline document: {_first(error)}") from error
    return Arguments(
        steps=tuple(_read_step(step) for step in read.steps),
        on_damage=read.on_damage,
        max_bytes=read.max_bytes,
        max_pixels=read.max_pixels,
        colour=read.colour,
        isolated=read.isolated,
    )


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'document'}: {problem['msg']}"


def _read_step(document: _StepDocument) -> Step:
    step = _made(document)
    found = step_version(step)
    if document.version is not None and document.version != found:
        raise ConfigError(
            f"step {document.step!r} is version {found} here and version {document.version} in the "
            "document: its answers may differ. Change or drop the version there to accept that"
        )
    return Stage(
        step,
        on_error=document.on_error,
        deadline_s=document.deadline_s,
        when=_read_condition(document.when),
    )


def _made(document: _StepDocument) -> Step:
    found = _resolved(document.step)
    if not isinstance(found, type):
        if document.parameters or not callable(found):
            raise ConfigError(f"{document.step!r} is no class of steps, so it takes no parameters")
        return found
    if not is_dataclass(found):
        raise ConfigError(f"{document.step!r} is no step: it is not a dataclass")
    known = {entry.name for entry in fields(found) if entry.init}
    if unknown := sorted(set(document.parameters) - known):
        raise ConfigError(
            f"step {document.step!r} has no parameter {', '.join(unknown)}; "
            f"it has: {', '.join(sorted(known)) or 'none'}"
        )
    try:
        step: object = TypeAdapter(found).validate_python(document.parameters)
    except ValidationError as error:
        raise ConfigError(f"step {document.step!r}: {_first(error)}") from error
    except CaptureKitError as error:
        raise ConfigError(f"step {document.step!r}: {error}") from error
    if not callable(step):
        raise ConfigError(f"{document.step!r} is no step: it is not callable")
    return step


def _read_condition(when: str | When | None) -> Condition | None:
    if not isinstance(when, str):
        return when
    found = _resolved(when)
    if not callable(found):
        raise ConfigError(f"{when!r} is no condition: it is not callable")
    return found


def _resolved(name: str) -> object:
    try:
        if ":" in name:
            return found_at(name)
        entry = _entry_points().get(name)
        if entry is not None:
            return entry.load()
    except Exception as error:  # an imported module may raise anything
        raise ConfigError(f"no step at {name!r}: {error}") from error
    known = ", ".join(sorted(_entry_points()))
    raise ConfigError(f"no step is named {name!r}; installed are: {known}")


def found_at(place: str) -> object:
    """What ``module:attribute`` names; raises ImportError or AttributeError."""
    module, _, attribute = place.partition(":")
    found: object = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


@functools.cache
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
