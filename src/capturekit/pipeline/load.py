"""Find the pipeline that a setting or an option names."""

import inspect
from collections.abc import Callable
from pathlib import Path

from capturekit.errors import ConfigError
from capturekit.pipeline.form import found_at
from capturekit.pipeline.run import ProcessingPipeline


def load_pipeline(spec: str) -> ProcessingPipeline:
    """The pipeline that ``module:attr`` names, or that a ``.json`` file describes.

    The attribute is a pipeline, a step, or a function without arguments that returns one of
    them. Raises ConfigError when there is no such thing.
    """
    if spec.endswith(".json"):
        try:
            return ProcessingPipeline.from_json(Path(spec).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the pipeline cannot be read: {error}") from error
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{spec!r} does not name a pipeline; write module:attribute or FILE.json")
    try:
        found = found_at(spec)
        if inspect.isfunction(found) and not _wants_arguments(found):
            found = found()
    except Exception as error:  # an imported module may raise anything
        raise ConfigError(f"no pipeline at {spec!r}: {error}") from error
    if isinstance(found, ProcessingPipeline):
        return found
    if callable(found) and not isinstance(found, type):
        return ProcessingPipeline((found,))
    raise ConfigError(f"{spec!r} is a {type(found).__name__}, not a pipeline")


def _wants_arguments(function: Callable[..., object]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(one.default is one.empty for one in parameters)
