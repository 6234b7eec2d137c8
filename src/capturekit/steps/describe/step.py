"""What does a vision-language model see? Items, brands, packages, dates, and the kind of place.

What it lists are guesses: by default they wait for a person and do not change stock.
"""

import contextvars
import hashlib
import logging
import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, ClassVar, Final, Literal

import anyio
from pydantic import GetPydanticSchema, JsonValue
from pydantic_core import core_schema

from capturekit.frame import Frame, Observation, encode_jpeg
from capturekit.pipeline import Chainable, ModelFile
from capturekit.steps.describe.answer import SCHEMA_VERSION, DescribedItem, Scene
from capturekit.steps.describe.budget import Budget
from capturekit.steps.describe.cache import Cache
from capturekit.steps.describe.client import Question, Runtime, Told, ask
from capturekit.steps.describe.errors import ProviderFailed
from capturekit.steps.describe.prompt import load_prompt
from capturekit.steps.describe.provider import Provider

logger = logging.getLogger("capturekit.steps.describe")

GUESS: Final = 0.49
"""Highest confidence of an observation, unless you say otherwise: just below the default
``threshold`` of the settings. What models say of themselves is not calibrated."""
GRACE_S: Final = 5.0
"""Past the deadline, for connections to close and a name server that does not answer."""

Part = Literal["brand", "name", "package"]


@dataclass(frozen=True, slots=True)
class Description:
    """What a model says of a picture, and which one, asked how."""

    json_key: ClassVar[str] = "description"

    scene: Scene
    items: tuple[DescribedItem, ...]
    """In the model's order; equal ones added up."""
    provider: str
    """The name of the one that answered."""
    model: str
    prompt: str
    """The prompt's version."""
    is_cached: bool
    """Whether the answer was kept from an earlier call."""
    is_cut: bool
    """Whether the answer ended too early: there may be more to see."""
    calls: int
    """Requests sent to the provider for it, those that failed included; 0 when cached."""
    input_tokens: int | None
    """Of the call that answered; None where the server does not say."""
    output_tokens: int | None
    cost: float
    """Of the call that answered, in the currency of the provider's prices."""
    problems: tuple[str, ...] = ()
    """A line for each entry of the answer that was left out, and why."""

    def as_json(self) -> JsonValue:
        """The object under ``description``."""
        return {
            "scene": self.scene.model_dump(mode="json"),
            "items": [_item_json(item) for item in self.items],
            "provider": self.provider,
            "model": self.model,
            "prompt": self.prompt,
            "is_cached": self.is_cached,
            "is_cut": self.is_cut,
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": self.cost,
            "problems": list(self.problems),
        }


def _item_json(item: DescribedItem) -> dict[str, JsonValue]:
    expires_on: date | None = item.expires_on
    return {**item.model_dump(mode="json"), "expires_on": expires_on and expires_on.isoformat()}


def _runtime_schema(_source: object, _handler: object) -> core_schema.CoreSchema:
    """In JSON a runtime is null: a step that is read from JSON uses the process's own."""
    return core_schema.nullable_schema(
        core_schema.is_instance_schema(
            Runtime,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda _runtime: None),
        )
    )


@dataclass(frozen=True, slots=True)
class Describe(Chainable):
    """Finds a ``Description``, and observes each item that is in it.

    Providers are asked in their order until one answers. The picture is scaled and encoded
    anew, so nothing of its metadata leaves the house. Limits, budget, cache and where providers
    live are no part of a pipeline's fingerprint: they may change without work being done again.

    Raises ProviderBusy or BudgetExhausted (RateLimited), ProviderFailed or BadAnswer
    (Retryable), or ProviderRefused (Permanent).
    """

    name: ClassVar[str] = "describe"
    version: ClassVar[int] = 1
    gives: ClassVar[tuple[type, ...]] = (Description,)

    providers: tuple[Provider, ...]
    prompt: str | ModelFile = "inventory-1"
    """A prompt of the package, or a file of your own."""
    long_side: int = 1024
    """Pixels sent; models scale to about this themselves."""
    jpeg_quality: int = 85
    max_confidence: float = GUESS
    """Highest confidence of an observation, 0 to 1."""
    item_from: tuple[Part, ...] = ("brand", "name")
    """What makes an observation's item, in this order."""
    deadline_s: float = 120.0
    """For all providers and tries together."""
    budget: Budget = field(default=Budget(), kw_only=True)
    cache: Cache = field(default=Cache(), kw_only=True)
    runtime: Annotated[Runtime | None, GetPydanticSchema(_runtime_schema)] = field(
        default=None, compare=False, repr=False, kw_only=True
    )
    """For a clock or limiters of your own; not part of the step's JSON."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "providers", tuple(self.providers))
        object.__setattr__(self, "item_from", tuple(self.item_from))
        if not self.providers:
            raise ValueError("name at least one provider")
        if not self.item_from or set(self.item_from) - {"brand", "name", "package"}:
            raise ValueError("item_from is made of brand, name and package")
        if self.long_side < 1 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError("long_side must be at least 1, jpeg_quality 1 to 100")
        if not 0 <= self.max_confidence <= 1 or not 0 < self.deadline_s < math.inf:
            raise ValueError("max_confidence must be 0 to 1, deadline_s over 0")
        load_prompt(self.prompt)

    @property
    def needs(self) -> tuple[str, ...]:
        """The picture that is sent."""
        return (f"bgr_{self.long_side}",)

    @property
    def fingerprint(self) -> str:
        """Of what decides the answers."""
        decisive = (
            load_prompt(self.prompt).sha256,
            [provider.asks for provider in self.providers],
            (self.long_side, self.jpeg_quality, self.max_confidence, self.item_from),
            SCHEMA_VERSION,
        )
        return hashlib.sha256(repr(decisive).encode()).hexdigest()

    def __call__(self, frame: Frame) -> Frame:
        """Takes as long as the model does: 1 to 30 s, and never more than the deadline and 5 s."""
        jpeg = encode_jpeg(frame.bgr_within(self.long_side), quality=self.jpeg_quality)
        runtime = self.runtime or _SHARED
        prompt = load_prompt(self.prompt)
        ends_at = runtime.clock() + self.deadline_s
        question = Question(prompt, jpeg, ends_at, self.budget, self.cache)
        told = _in_a_thread(question, self.providers, runtime, self.deadline_s)
        if told.kept.problems:
            logger.info("left out of a description: %s", "; ".join(told.kept.problems))
        found = _description(told, prompt.version)
        return frame.having(found).observing(*map(self._observation, found.items))

    def _observation(self, item: DescribedItem) -> Observation:
        return Observation(
            analyser=self.name,
            item=_item_name(item, self.item_from),
            quantity=item.quantity,
            confidence=min(item.confidence, self.max_confidence),
        )


_SHARED: Final = Runtime()


def _description(told: Told, prompt: str) -> Description:
    kept = told.kept
    return Description(
        scene=kept.answer.scene,
        items=kept.answer.items,
        provider=told.provider.name,
        model=told.provider.model,
        prompt=prompt,
        is_cached=told.calls == 0,
        is_cut=kept.is_cut,
        calls=told.calls,
        input_tokens=kept.input_tokens,
        output_tokens=kept.output_tokens,
        cost=kept.cost,
        problems=kept.problems,
    )


def _item_name(item: DescribedItem, parts: tuple[Part, ...]) -> str:
    """In lower case; a brand that the name begins with is not said twice."""
    words = {"brand": item.brand, "name": item.name, "package": item.package}
    said = [(words[part] or "").casefold() for part in parts]
    name = item.name.casefold()
    if item.brand and name.startswith(item.brand.casefold()):
        said = [word for part, word in zip(parts, said, strict=True) if part != "brand"]
    return " ".join(word for word in said if word) or name


def _in_a_thread(
    question: Question, providers: tuple[Provider, ...], runtime: Runtime, deadline_s: float
) -> Told:
    """Ask, in an event loop of its own: the caller's thread may have one that runs.

    The thread is left behind when it does not end: nothing stops a name server's silence.
    """
    future: Future[Told] = Future()

    def work() -> None:
        try:
            future.set_result(anyio.run(ask, question, providers, runtime))
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            future.set_exception(error)

    context = contextvars.Context()
    threading.Thread(target=context.run, args=(work,), daemon=True, name="describe").start()
    try:
        return future.result(deadline_s + GRACE_S)
    except TimeoutError:
        raise ProviderFailed(f"no answer within {deadline_s:g} s") from None
