"""What a model is asked to answer, and how its text becomes that.

The text is data that a stranger's label may have dictated: nothing in it is obeyed, and
nothing in it raises anything but BadAnswer.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationError

from capturekit.steps.describe.errors import BadAnswer
from capturekit.steps.describe.loosejson import Reading, loose_values, strict_values, unquoted
from capturekit.steps.describe.reading import (
    MAX_QUANTITY,
    clean,
    date_of,
    read_confidence,
    read_name,
    read_quantity,
    read_text,
)

SCHEMA_VERSION: Final = 1
"""Raised when the answer's form, or how it is read, changes: kept answers are then asked anew."""
MAX_ANSWER_CHARS: Final = 200_000
"""Read of an answer; 200 items take a tenth of it."""
MAX_ITEMS: Final = 200
"""Of one picture. A model that repeats itself until it is stopped lists more."""
MAX_PROBLEMS: Final = 20

Text = Annotated[str | None, BeforeValidator(read_text)]
Confidence = Annotated[float, BeforeValidator(read_confidence)]

# Structured output wants every property required, and no other.
_CLOSED = ConfigDict(frozen=True, json_schema_extra={"additionalProperties": False})


class Scene(BaseModel):
    """What kind of place it is."""

    model_config = _CLOSED

    type: Annotated[str, BeforeValidator(clean)]
    """One or two words, such as ``pantry shelf``; empty when the model did not say."""
    confidence: Confidence
    """The model's own, 0 to 1."""


class DescribedItem(BaseModel):
    """One product that the model lists."""

    model_config = _CLOSED

    name: Annotated[str, BeforeValidator(read_name)]
    brand: Text
    package: Text
    """Kind and size, such as ``can 400 g``."""
    quantity: Annotated[int, BeforeValidator(read_quantity)]
    """Packages, 1 to 9,999."""
    confidence: Confidence
    """The model's own, 0 to 1; not calibrated."""
    expiry: Text
    """As it is printed."""

    @property
    def expires_on(self) -> date | None:
        """The last day that ``expiry`` means; None when it is not certain."""
        return date_of(self.expiry) if self.expiry else None


class Answer(BaseModel):
    """A whole answer. Its JSON schema is what endpoints are sent."""

    model_config = _CLOSED

    scene: Scene
    items: tuple[DescribedItem, ...]


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """An answer, and what was not taken from the text."""

    answer: Answer
    problems: tuple[str, ...] = ()
    """A line for each entry that was left out, and why; at most 20."""
    is_cut: bool = False
    """Whether the text ended too early, or listed too much: there may be more to see."""


def read_answer(text: str) -> ReadAnswer:
    """The answer in a model's text, slips forgiven; BadAnswer when there is none.

    Entries that cannot be counted are left out and named in ``problems``; equal ones are added
    up.
    """
    found = _best(unquoted(text[:MAX_ANSWER_CHARS]))
    if found is None:
        raise BadAnswer(f"the model's answer holds no list of items: {clean(text)[:80]!r}")
    whole, is_whole = found
    problems: list[str] = []
    entries = whole["items"]
    items = _items(entries[:MAX_ITEMS] if isinstance(entries, list) else [], problems)
    is_long = isinstance(entries, list) and len(entries) > MAX_ITEMS
    answer = Answer(scene=_scene(whole), items=tuple(_added_up(items)))
    is_cut = is_long or not is_whole or len(text) > MAX_ANSWER_CHARS
    return ReadAnswer(answer, tuple(problems[:MAX_PROBLEMS]), is_cut)


# Which of the values in the text is the answer

_Object = Mapping[str, JsonValue]


def _best(text: str) -> tuple[_Object, bool] | None:
    strict = list(strict_values(text))
    # Models that think aloud write drafts first.
    if answers := list(_objects(strict)):
        return answers[-1]
    loose = list(loose_values(text))
    if answers := list(_objects(loose)):
        return answers[-1]
    return next(iter(_lists([*strict, *loose])), None)


def _objects(readings: Iterable[Reading]) -> Iterator[tuple[_Object, bool]]:
    for reading in readings:
        if isinstance(reading.value, dict):
            found = _with_items(reading.value)
            if found is not None:
                yield found, reading.is_whole


def _lists(readings: Iterable[Reading]) -> Iterator[tuple[_Object, bool]]:
    for reading in readings:
        value = reading.value
        if isinstance(value, list) and value and all(_is_item(entry) for entry in value):
            yield {"items": value}, reading.is_whole


def _is_item(entry: JsonValue) -> bool:
    return isinstance(entry, dict) and "name" in _renamed(entry)


def _with_items(value: dict[str, JsonValue]) -> _Object | None:
    """The object with the items: this one, or one right inside it."""
    inner = [entry for entry in value.values() if isinstance(entry, dict)]
    for candidate in (value, *inner):
        renamed = {key.strip().lower(): entry for key, entry in candidate.items()}
        if isinstance(renamed.get("items"), list):
            return renamed
    return None


# From there to the answer

_ALIASES: Final = {
    "item": "name",
    "product": "name",
    "product_name": "name",
    "label": "name",
    "qty": "quantity",
    "count": "quantity",
    "amount": "quantity",
    "packaging": "package",
    "container": "package",
    "expiry_date": "expiry",
    "expiration_date": "expiry",
    "best_before": "expiry",
    "score": "confidence",
}


def _renamed(entry: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    plain = {key.strip().lower().replace(" ", "_"): value for key, value in entry.items()}
    renamed = {_ALIASES[key]: value for key, value in plain.items() if key in _ALIASES}
    return renamed | {key: value for key, value in plain.items() if key not in _ALIASES}


def _items(entries: Iterable[JsonValue], problems: list[str]) -> Iterator[DescribedItem]:
    for number, entry in enumerate(entries, 1):
        given = _renamed(entry) if isinstance(entry, dict) else {"name": entry}
        fields = {name: given.get(name) for name in DescribedItem.model_fields}
        try:
            yield DescribedItem.model_validate(fields)
        except ValidationError as error:
            why = error.errors(include_url=False)[0]
            problems.append(f"item {number}: {why['msg'].removeprefix('Value error, ')}")


def _scene(whole: _Object) -> Scene:
    given = whole.get("scene")
    if not isinstance(given, dict):
        given = {"type": given or whole.get("scene_type"), "confidence": whole.get("confidence")}
    fields = {"type": given.get("type"), "confidence": given.get("confidence")}
    try:
        return Scene.model_validate(fields)
    except ValidationError:
        return Scene(type="", confidence=0.0)


def _added_up(items: Iterable[DescribedItem]) -> Iterator[DescribedItem]:
    """Equal entries as one: their quantities added, the least confidence."""
    by_kind: dict[tuple[str, ...], DescribedItem] = {}
    for item in items:
        kind = tuple((text or "").casefold() for text in _kind(item))
        seen = by_kind.get(kind)
        by_kind[kind] = item if seen is None else _sum(seen, item)
    return iter(by_kind.values())


def _kind(item: DescribedItem) -> tuple[str | None, ...]:
    return item.name, item.brand, item.package, item.expiry


def _sum(one: DescribedItem, other: DescribedItem) -> DescribedItem:
    quantity = min(one.quantity + other.quantity, MAX_QUANTITY)
    confidence = min(one.confidence, other.confidence)
    return one.model_copy(update={"quantity": quantity, "confidence": confidence})
