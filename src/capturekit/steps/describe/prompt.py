"""The prompt: a versioned file, in the package or of one's own."""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from capturekit.errors import ConfigError
from capturekit.pipeline import ModelFile

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked."""

    version: str
    """The file's name without its ending, such as ``inventory-1``."""
    text: str
    sha256: str
    """Of the file, in hex."""


def load_prompt(source: str | ModelFile) -> Prompt:
    """A prompt of the package by its name, or a file of your own.

    Raises ConfigError when there is none of this name, or when the file has changed since
    ``source`` was made.
    """
    version = source if isinstance(source, str) else source.path.stem
    try:
        content = _built_in(source) if isinstance(source, str) else source.path.read_bytes()
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt {version!r} cannot be read: {error}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if isinstance(source, ModelFile) and sha256 != source.sha256:
        raise ConfigError(f"{source.path} has changed since the pipeline was built; build it again")
    return Prompt(version, text, sha256)


def _built_in(name: str) -> bytes:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a prompt; write 'inventory-1'")
    return (resources.files(__package__) / "prompts" / f"{name}.md").read_bytes()
