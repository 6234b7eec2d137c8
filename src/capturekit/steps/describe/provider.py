"""Where a vision-language model is to be had, and what it costs."""

import math
import os
import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from capturekit.steps.describe.errors import ProviderRefused

ResponseFormat = Literal["json_schema", "json_object", "none"]

LEAST_SECRET: Final = 8
"""Characters. Shorter keys, such as ``none`` or ``ollama``, are placeholders: to blot them out
would mangle ordinary words."""
_KEY: Final = re.compile(r"[!#-\[\]-~]+")
"""Printable ASCII without space, quotation mark and backslash."""
_LOOKS_SECRET: Final = re.compile(r"\b(?:bearer\s+\S+|sk-[\w*-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Provider:
    """One model at one endpoint that speaks OpenAI's chat completions.

    Holds no secret: ``key_env`` names the environment variable that does.
    """

    name: str
    """What results, errors and logs call it."""
    base_url: str
    """Up to and without ``/chat/completions``: ``https://api.openai.com/v1``."""
    model: str
    key_env: str | None = None
    """Read at every call and sent as a bearer token; None sends no key."""
    timeout_s: float = 60.0
    """For one call, from connecting to the last byte."""
    max_tries: int = 3
    """Calls for one picture, when the server is busy, fails or is not reached."""
    max_tokens: int = 2_000
    """Longest answer; a shelf of 30 items takes 1,200."""
    temperature: float | None = 0.0
    """None leaves it to the server."""
    response_format: ResponseFormat = "json_schema"
    """What is tried first; the next weaker one when the endpoint rejects it."""
    detail: Literal["auto", "low", "high"] = "auto"
    """OpenAI's word for how finely the picture is looked at."""
    rate: str = ""
    """Calls allowed, in the notation of RateLimiter: ``30/minute``. Per process."""
    input_cost: float = 0.0
    """Per million tokens, in any currency."""
    output_cost: float = 0.0
    """Per million tokens."""
    max_input_tokens: int = 4_000
    """Reserved in the budget for picture and prompt until the server says what it took."""

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("base_url must be like https://api.openai.com/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("base_url must hold no credentials: name their variable in key_env")
        if not self.name or not self.model:
            raise ValueError("a provider needs a name and a model")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not 0 < self.timeout_s < math.inf or self.max_tries < 1 or self.max_tokens < 1:
            raise ValueError("timeout_s must be over 0, max_tries and max_tokens at least 1")
        costs = (self.input_cost, self.output_cost, self.max_input_tokens)
        if not all(0 <= cost < math.inf for cost in costs):
            raise ValueError("costs and max_input_tokens must be numbers from 0 up")

    @property
    def asks(self) -> str:
        """What decides its answers, as one text; where it is and what it costs does not."""
        return repr(
            (self.model, self.max_tokens, self.temperature, self.response_format, self.detail)
        )

    def micros(self, input_tokens: int, output_tokens: int) -> int:
        """What so many tokens cost, in millionths, rounded up."""
        return math.ceil(input_tokens * self.input_cost + output_tokens * self.output_cost)

    def key(self) -> "Key":
        """Read the environment; ProviderRefused when the variable is not set or not a key."""
        if self.key_env is None:
            return Key("")
        value = os.environ.get(self.key_env, "").strip()
        if not _KEY.fullmatch(value):
            what = "holds no usable key" if value else "is not set"
            raise ProviderRefused(f"{self.name}: the environment variable {self.key_env} {what}")
        return Key(value)


class Key:
    """A secret that does not print."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Key(...)"

    def headers(self) -> dict[str, str]:
        """The header that carries it; none when it is empty."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def is_in(self, text: str) -> bool:
        """Whether the text gives it away, in any case."""
        is_secret = len(self._value) >= LEAST_SECRET
        return is_secret and self._value.casefold() in text.casefold()

    def hidden(self, text: str) -> str:
        """The text without it."""
        if len(self._value) < LEAST_SECRET:
            return text
        return re.sub(re.escape(self._value), "[key]", text, flags=re.IGNORECASE)

    def blotted(self, text: str) -> str:
        """The text without it, and without what looks like another one."""
        return _LOOKS_SECRET.sub("[key]", self.hidden(text))
