"""JSON as language models write it: in prose, in fences, with slips, cut off at the end.

Nothing here raises for any text, and the time is linear in its length.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

MAX_STARTS: Final = 256
"""Brackets at which a value is looked for."""
MAX_DEPTH: Final = 20
"""Levels of brackets; an answer has four."""
MAX_DIGITS: Final = 30

_OPENING = re.compile(r"[{\[]")
# A comment is short, or each one that has no end would be looked for to the end of the text.
_GAP = re.compile(r"(?:\s++|,|;|//[^\n]*+|/\*.{0,200}?\*/)*+", re.DOTALL)
_BARE = re.compile(r"[^,;\n{}\[\]\"]++")
_BARE_KEY = re.compile(r"[^\s,:;{}\[\]\"'“]++")
_COLON = re.compile(r"\s*+:")
_AFTER_STRING = re.compile(r"\s*+(?:[,:}\]]|\Z|[\"']\w++[\"']\s*+:)")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d{1,3})?")
_CLOSING_QUOTE: Final = {'"': '"', "'": "'", "“": "”"}
_CHUNK: Final = {closing: re.compile(rf"[^\\{closing}]++") for closing in _CLOSING_QUOTE.values()}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_UNICODE_ESCAPE = re.compile(r"u([0-9a-fA-F]{4})")
_WORDS: Final[dict[str, JsonValue]] = {"true": True, "false": False, "null": None, "none": None}


@dataclass(frozen=True, slots=True)
class Reading:
    """One value that was found in a text."""

    value: JsonValue
    is_whole: bool = True
    """False when the text ended inside it; what was complete until there is in ``value``."""


def strict_values(text: str) -> Iterator[Reading]:
    """The objects and lists of correct JSON in the text, in their order, not those inside."""
    decoder, position = json.JSONDecoder(), 0
    for _ in range(MAX_STARTS):
        start = _OPENING.search(text, position)
        if start is None:
            return
        try:
            value, position = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            position = start.end()
        else:
            yield Reading(value)


def loose_values(text: str) -> Iterator[Reading]:
    """The objects and lists in the text, slips forgiven.

    Forgiven: missing or trailing commas, comments, single or typographic quotes, quotes inside
    quotes, bare words, Python's literals, missing brackets, and an end that is cut off. Of a
    list that is cut, the last element is left out.
    """
    position = 0
    for _ in range(MAX_STARTS):
        start = _OPENING.search(text, position)
        if start is None:
            return
        reader = _Reader(text, start.start())
        value, is_whole = reader.value()
        position = reader.at
        yield Reading(value, is_whole)


def unquoted(text: str) -> str:
    """What a text says that is one JSON string as a whole; any other as it is."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return said if isinstance(said, str) else text


class _Reader:
    """Reads one value from ``at`` on. Every step moves on by a character at least."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self.at = at

    def value(self, depth: int = 0) -> tuple[JsonValue, bool]:
        """The next value, and whether the text did not end inside it."""
        self._skip(_GAP)
        char = self._char()
        if char in ("{", "[") and depth < MAX_DEPTH:
            self.at += 1
            return self._object(depth + 1) if char == "{" else self._list(depth + 1)
        if char in _CLOSING_QUOTE:
            return self._string(_CLOSING_QUOTE[char])
        return self._bare()

    def _char(self) -> str:
        return self._text[self.at : self.at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def _object(self, depth: int) -> tuple[dict[str, JsonValue], bool]:
        found: dict[str, JsonValue] = {}
        while True:
            self._skip(_GAP)
            char = self._char()
            if char in ("", "}", "]"):
                self.at += char == "}"
                return found, char != ""
            key = self._key(char)
            if not self._skip(_COLON):
                continue
            value, is_whole = self.value(depth)
            if is_whole or isinstance(value, dict | list):
                found[key] = value
            if not is_whole:
                return found, False

    def _key(self, char: str) -> str:
        if char in _CLOSING_QUOTE:
            return self._string(_CLOSING_QUOTE[char])[0]
        word = self._skip(_BARE_KEY)
        self.at += not word
        return word

    def _list(self, depth: int) -> tuple[list[JsonValue], bool]:
        found: list[JsonValue] = []
        while True:
            self._skip(_GAP)
            char = self._char()
            if char in ("", "}", "]"):
                self.at += char == "]"
                return found, char != ""
            value, is_whole = self.value(depth)
            if not is_whole:
                return found, False
            found.append(value)

    def _string(self, closing: str) -> tuple[str, bool]:
        self.at += 1
        parts: list[str] = []
        while char := self._char():
            if char == closing and _AFTER_STRING.match(self._text, self.at + 1):
                self.at += 1
                return _joined(parts), True
            parts.append(self._escape() if char == "\\" else self._plain(closing))
        return _joined(parts), False

    def _plain(self, closing: str) -> str:
        chunk = self._skip(_CHUNK[closing]) or self._char()
        if chunk == closing:
            self.at += 1
        return chunk

    def _escape(self) -> str:
        self.at += 1
        if match := _UNICODE_ESCAPE.match(self._text, self.at):
            self.at = match.end()
            return chr(int(match[1], 16))
        char = self._char()
        self.at += 1
        return _ESCAPES.get(char, char)

    def _bare(self) -> tuple[JsonValue, bool]:
        word = self._skip(_BARE)
        if not word:
            # A bracket that is too deep; or the end of an object, where a value is missing.
            self.at += self._char() in ("{", "[")
            return None, self._char() != ""
        return _meaning(word.partition(" //")[0].strip()), self.at < len(self._text)


def _joined(parts: list[str]) -> str:
    # Halves of a pair may come as two escapes; a half that is alone cannot be stored.
    text = "".join(parts)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _meaning(word: str) -> JsonValue:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if len(word) <= MAX_DIGITS and (number := _NUMBER.fullmatch(word)):
        return float(word) if number[1] or number[2] else int(word)
    return word
