"""OpenAI's chat completions, as endpoints really speak them: requests, answers, refusals."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from pydantic import JsonValue

from capturekit.steps.describe.answer import Answer
from capturekit.steps.describe.errors import (
    BadAnswer,
    Failure,
    ProviderBusy,
    ProviderFailed,
    ProviderRefused,
)
from capturekit.steps.describe.provider import Key, Provider, ResponseFormat
from capturekit.steps.describe.reading import clean

BUSY_S: Final = 60.0
"""Waited after a 429 that does not say for how long."""
LONGEST_WAIT_S: Final = 86_400.0
"""Believed of a Retry-After."""
MAX_TOKENS_BELIEVED: Final = 10_000_000
"""In a server's account of one call; more is a mistake, and the reservation stands."""
TRY_AGAIN: Final = frozenset({408, 409, 425})
NOT_UNDERSTOOD: Final = frozenset({400, 422, 501})
"""What endpoints answer to parameters that they do not know."""

_WEAKER: Final[dict[ResponseFormat, ResponseFormat]] = {
    "json_schema": "json_object",
    "json_object": "none",
}
_SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which of the optional parameters an endpoint takes."""

    response_format: ResponseFormat
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    takes_temperature: bool = True

    def after(self, status: int, body: bytes) -> "Dialect | None":
        """What to try after an endpoint refused this so; None when that was not the matter."""
        if status not in NOT_UNDERSTOOD:
            return None
        detail = body.decode(errors="replace")
        if self.tokens_field == "max_tokens" and "max_completion_tokens" in detail:
            return replace(self, tokens_field="max_completion_tokens")
        if self.takes_temperature and "temperature" in detail:
            return replace(self, takes_temperature=False)
        if self.response_format in _WEAKER:
            return replace(self, response_format=_WEAKER[self.response_format])
        return None


def request_body(provider: Provider, dialect: Dialect, prompt: str, jpeg: bytes) -> bytes:
    """The JSON to post: the prompt and the picture in one message of the user.

    Not every model's template knows messages of the system.
    """
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url, "detail": provider.detail}}
    content = [{"type": "text", "text": prompt}, picture]
    body: dict[str, object] = {
        "model": provider.model,
        "messages": [{"role": "user", "content": content}],
        dialect.tokens_field: provider.max_tokens,
        "stream": False,
    }
    if dialect.takes_temperature and provider.temperature is not None:
        body["temperature"] = provider.temperature
    if dialect.response_format != "none":
        body["response_format"] = _format(dialect.response_format)
    return json.dumps(body).encode()


def _format(name: ResponseFormat) -> dict[str, object]:
    if name == "json_object":
        return {"type": name}
    schema = {"name": "description", "strict": True, "schema": Answer.model_json_schema()}
    return {"type": name, "json_schema": schema}


# Answers


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said."""

    text: str
    is_cut: bool
    """Whether it ran into ``max_tokens``."""
    input_tokens: int | None
    output_tokens: int | None


def parse_completion(body: bytes | str) -> Completion:
    """The body of a 200 answer; BadAnswer, or what a gateway hides in such a body."""
    try:
        whole = _object(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise BadAnswer("the endpoint's answer is not JSON; is its base_url right?") from error
    if whole.get("error"):
        raise _hidden_error(whole)
    choices = whole.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    message, usage = _object(choice.get("message")), _object(whole.get("usage"))
    finish = choice.get("finish_reason")
    if message.get("refusal") or finish == "content_filter":
        said = message.get("refusal")
        raise ProviderRefused(f"the model refuses: {clean(said) if isinstance(said, str) else ''}")
    text = _text(message.get("content")) or _called(message)
    if not text.strip():
        raise BadAnswer("the model answered nothing")
    return Completion(
        text,
        finish == "length",
        _tokens(usage, "prompt_tokens"),
        _tokens(usage, "completion_tokens"),
    )


def _object(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _text(content: JsonValue) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part if isinstance(part, str) else _object(part).get("text") for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _called(message: Mapping[str, JsonValue]) -> str:
    """The arguments of the first tool call: some gateways make structured output of those."""
    calls = message.get("tool_calls")
    first = _object(calls[0]) if isinstance(calls, list) and calls else {}
    function = _object(first.get("function")) or _object(message.get("function_call"))
    arguments = function.get("arguments")
    return json.dumps(arguments) if isinstance(arguments, dict) else _text(arguments)


def _tokens(usage: Mapping[str, JsonValue], name: str) -> int | None:
    value = usage.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_TOKENS_BELIEVED else None


def _hidden_error(whole: Mapping[str, JsonValue]) -> Failure:
    code = _object(whole.get("error")).get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else 500
    return failure(status, _said(whole), None)


# Refusals


def failure(status: int, detail: str, retry_after_s: float | None) -> Failure:
    """What an answer other than 2xx means."""
    message = f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
    if status == 429 or (status == 503 and retry_after_s is not None):
        if retry_after_s is None:
            return ProviderBusy(message, BUSY_S, is_told=False)
        return ProviderBusy(message, retry_after_s)
    if status >= 500 or status in TRY_AGAIN:
        return ProviderFailed(message)
    if 300 <= status < 400:
        return ProviderRefused(f"{message}: it redirects; give its real address as base_url")
    return ProviderRefused(message)


def detail_of(body: bytes, key: Key) -> str:
    """What an error's body says, on one line, without the key."""
    try:
        said = _said(_object(json.loads(body)))
    except (ValueError, RecursionError):
        said = body[:2_000].decode(errors="replace")
    return clean(key.blotted(said))


def _said(whole: Mapping[str, JsonValue]) -> str:
    error = whole.get("error")
    candidates = (error, _object(error).get("message"), whole.get("message"), whole.get("detail"))
    texts = [said for said in candidates if isinstance(said, str)]
    return texts[0] if texts else json.dumps(whole)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait as the server asks, at most a day; None when it does not.

    ``now`` is in seconds since 1970, for servers that name a date.
    """
    millis, given = headers.get("retry-after-ms", ""), headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(millis):
        wait_s = float(millis) / 1e3
    elif _SECONDS.fullmatch(given):
        wait_s = float(given)
    else:
        try:
            at = parsedate_to_datetime(given)
            wait_s = at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)
