"""What one run found, how it went, and how to look at it."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Self

from pydantic import JsonValue

from capturekit import overlay
from capturekit.errors import CaptureKitError, ImageError
from capturekit.frame import Derived, Frame, Observation, Outline
from capturekit.picture import PictureInfo, Pixels
from capturekit.pipeline.source import Taken
from capturekit.pipeline.step import Drawn, Json, Reported


class Stopped(CaptureKitError):
    """The caller asked the run to stop; it ended before the next step."""


class NoPicture(CaptureKitError):
    """There is nothing to draw on: the picture was refused, or is no longer there."""


OWN_KEYS: Final = frozenset(
    {
        *("sha256", "width", "height", "flags", "observations", "steps", "fingerprint", "error"),
        *("degraded", "file"),
    }
)
"""Keys of a result's JSON that no finding may have."""


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run or a step ended early."""

    type: str
    """The name of the exception's class, such as ``DamagedImage`` or ``Stopped``."""
    message: str
    step: str | None = None
    """The step that failed or was not started; None when the picture did not decode."""
    cause: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception itself; None when the result came from another process."""

    @classmethod
    def of(cls, error: BaseException, step: str | None = None) -> Self:
        """What this exception says."""
        return cls(type(error).__name__, str(error), step, error)

    def as_json(self) -> Json:
        """Type and message."""
        return {"type": self.type, "message": self.message}


@dataclass(frozen=True, slots=True)
class StepReport:
    """How one step went. Steps after the end of a run have no report."""

    name: str
    ms: float
    """Wall time in milliseconds."""
    error: RunError | None = None
    skipped: str | None = None
    """Why the step was not asked, such as ``change.changed is true`` was not so; else None."""

    def as_json(self) -> Json:
        """As one entry of ``steps`` in a result; ``skipped`` is there when it was."""
        told: Json = {
            "name": self.name,
            "ms": round(self.ms, 3),
            "error": self.error.as_json() if self.error else None,
        }
        return {**told, "skipped": self.skipped} if self.skipped else told


@dataclass(frozen=True, slots=True, eq=False)
class TracedPicture:
    """An intermediate picture of a run."""

    step: str
    """The step that read or showed it."""
    name: str
    """A representation, or what the step calls it."""
    pixels: Pixels
    """Gray (H, W) or BGR (H, W, 3), uint8."""


@dataclass(frozen=True, slots=True)
class Result:
    """All that one run found, and how it went."""

    fingerprint: str
    """Of the pipeline that ran."""
    sha256: str | None
    """Of the file as given, in hex; None when it could not be read, or was made of pixels."""
    info: PictureInfo | None
    """None when the picture was refused."""
    findings: Mapping[type, object] = field(default_factory=lambda: MappingProxyType({}))
    observations: tuple[Observation, ...] = ()
    derived: Mapping[str, Derived] = field(default_factory=lambda: MappingProxyType({}))
    steps: tuple[StepReport, ...] = ()
    error: RunError | None = None
    decode_ms: float = 0.0
    trace: tuple[TracedPicture, ...] | None = field(default=None, repr=False, compare=False)
    """Intermediate pictures, in order; None when the run was not traced."""
    degraded: tuple[str, ...] = ()
    """Steps that failed and without which the result is not whole; see ``Stage``."""
    source: Taken | None = field(default=None, repr=False, compare=False)
    """What the run was given; a path as text is a Path here. None once it was pickled."""
    opener: Callable[[Taken], Frame] | None = field(default=None, repr=False, compare=False)
    """Opens the source again, as the pipeline did."""

    @property
    def was_stopped(self) -> bool:
        """Whether ``should_stop`` ended the run."""
        return self.error is not None and self.error.type == Stopped.__name__

    def as_json(self) -> Json:
        """The line that ``capturekit process`` prints for a picture, without ``file``.

        Raises TypeError for a finding whose own ``as_json`` gives no JSON.
        """
        info = self.info
        told: dict[str, JsonValue] = {
            "sha256": self.sha256,
            "width": info.width if info else None,
            "height": info.height if info else None,
            "flags": list(info.flags) if info else [],
            "quality": None,
            "codes": [],
            **dict(self._reported()),
            "observations": [seen.model_dump(mode="json") for seen in self.observations],
            "steps": [report.as_json() for report in self.steps],
            "fingerprint": self.fingerprint,
            "error": self.error.as_json() if self.error else None,
        }
        return {**told, "degraded": list(self.degraded)} if self.degraded else told

    def _reported(self) -> Iterator[tuple[str, JsonValue]]:
        for finding in self.findings.values():
            if isinstance(finding, Reported):
                value, key = finding.as_json(), finding.json_key
                try:
                    json.dumps(value, allow_nan=False)
                except (TypeError, ValueError) as error:
                    raise TypeError(f"finding {key!r} is not JSON: {error}") from error
                if key in OWN_KEYS:
                    raise TypeError(f"finding {key!r} has a key that results use themselves")
                yield key, value

    def draw(self, format: Literal["png", "svg"] = "png") -> bytes:
        """The picture with every finding and observation drawn on it, as PNG or SVG.

        Decodes the source again unless it was a frame. The picture in it is encoded anew:
        nothing else of the source file is in it. Raises NoPicture.
        """
        draw = {"png": overlay.png, "svg": overlay.svg}.get(format)
        if draw is None:
            raise ValueError(f"format is {format!r}; it must be 'png' or 'svg'")
        return draw(self._frame().bgr, tuple(self._outlines()))

    def trace_sheet(self) -> bytes:
        """All traced pictures with their names on one PNG, the drawn picture first.

        Raises NoPicture when the run was not traced.
        """
        if self.trace is None:
            raise NoPicture("the run was not traced: pass trace=True")
        drawn = overlay.drawn(self._frame().bgr, tuple(self._outlines()))
        traced = [(f"{shot.step}: {shot.name}", shot.pixels) for shot in self.trace]
        return overlay.sheet([("result", drawn), *traced])

    def _outlines(self) -> Iterator[Outline]:
        seen = set()
        for finding in self.findings.values():
            for outline in finding.outlines() if isinstance(finding, Drawn) else ():
                seen.add(outline.polygon)
                yield outline
        for observation in self.observations:
            if observation.box and observation.box not in seen:
                label = observation.code or observation.item or ""
                yield Outline(observation.box, label, observation.analyser)

    def _frame(self) -> Frame:
        if self.info is None or self.source is None or self.opener is None:
            raise NoPicture("there is no picture: it was refused, or the result was pickled")
        try:
            frame = self.opener(self.source)
        except (OSError, ImageError) as error:
            raise NoPicture(f"the picture is no longer what it was: {error}") from error
        if frame.sha256 != self.sha256:
            raise NoPicture("the file holds another picture now")
        return frame

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        mine = self.portable()
        return _restored, tuple(getattr(mine, entry.name) for entry in dataclasses.fields(mine))

    def portable(self) -> Self:
        """Without what cannot leave the process: causes, and the source."""
        return dataclasses.replace(
            self,
            findings=dict(self.findings),
            derived=dict(self.derived),
            steps=tuple(dataclasses.replace(s, error=_portable(s.error)) for s in self.steps),
            error=_portable(self.error),
            source=None,
            opener=None,
        )


def _restored(*values: object) -> Result:
    # The fields in their order, as they were taken apart.
    result = Result(*values)  # type: ignore[arg-type]
    return dataclasses.replace(
        result,
        findings=MappingProxyType(dict(result.findings)),
        derived=MappingProxyType(dict(result.derived)),
    )


def _portable(error: RunError | None) -> RunError | None:
    return dataclasses.replace(error, cause=None) if error else None
