"""Answers that were given before, by picture and prompt.

Only answers that could be read are kept. A cache never fails a run: what cannot be read or
written is asked anew, or not kept.
"""

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from capturekit.steps.describe.answer import SCHEMA_VERSION, Answer

logger = logging.getLogger("capturekit.steps.describe")

MAX_FILE_BYTES: Final = 1_000_000
"""An answer with 200 items has about 40 kB."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Where answers are kept. Equal caches share one memory in a process."""

    max_entries: int = 1_000
    """In memory, the least used forgotten first; about 1 kB each. 0 keeps none."""
    folder: Path | None = None
    """Keeps all of them in files, for all processes and for ever: delete old ones as you like."""

    def __post_init__(self) -> None:
        if self.max_entries < 0:
            raise ValueError(f"max_entries is {self.max_entries}; it must be at least 0")


class KeptAnswer(BaseModel):
    """An answer as it is kept."""

    model_config = ConfigDict(frozen=True)

    answer: Answer
    problems: tuple[str, ...]
    is_cut: bool
    input_tokens: int | None
    output_tokens: int | None
    cost: float


def cache_key(jpeg: bytes, prompt_sha256: str, asked: str) -> str:
    """Names the answer to this picture, prompt and way of asking (model and parameters)."""
    parts = [hashlib.sha256(jpeg).hexdigest(), prompt_sha256, asked, SCHEMA_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Answers:
    """The answers of one cache. Safe from several threads and processes."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, KeptAnswer] = OrderedDict()

    def get(self, key: str) -> KeptAnswer | None:
        """What was kept under this key, if it is still there and whole."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = self._load(key)
        if found is not None:
            self._remember(key, found)
        return found

    def put(self, key: str, answer: KeptAnswer) -> None:
        """Keep an answer."""
        self._remember(key, answer)
        if self._cache.folder is None:
            return
        try:
            self._save(self._path(self._cache.folder, key), answer)
        except OSError as error:
            logger.warning("an answer is not kept in %s: %s", self._cache.folder, error.strerror)

    def _remember(self, key: str, answer: KeptAnswer) -> None:
        with self._lock:
            self._kept[key] = answer
            self._kept.move_to_end(key)
            while len(self._kept) > self._cache.max_entries:
                self._kept.popitem(last=False)

    def _load(self, key: str) -> KeptAnswer | None:
        if self._cache.folder is None:
            return None
        try:
            with self._path(self._cache.folder, key).open("rb") as file:
                return KeptAnswer.model_validate_json(file.read(MAX_FILE_BYTES))
        except (OSError, ValidationError):
            return None

    @staticmethod
    def _save(path: Path, answer: KeptAnswer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        temporary.write_text(answer.model_dump_json())
        temporary.replace(path)

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.json"
