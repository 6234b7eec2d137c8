import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.errors import ConfigError
from capturekit.frame import Frame
from capturekit.picture import OnDamage
from capturekit.pipeline import (
    Chainable,
    Json,
    ModelFile,
    ProcessingPipeline,
    Stage,
    When,
    load_pipeline,
)
from capturekit.steps import JudgeQuality, MakeThumbnail, ReadCodes, default_pipeline
from tests.unit.pipeline.made_steps import DoubleSize, MeasureSize, fail, is_wide, read_colour

ON_DAMAGE: tuple[OnDamage, ...] = ("refuse", "flag")
HERE = "tests.unit.pipeline.made_steps"


@dataclass(frozen=True, slots=True)
class UseModel(Chainable):
    model: ModelFile
    places: tuple[tuple[float, float], ...] = ()

    def __call__(self, frame: Frame) -> Frame:
        return frame


def again(pipeline: ProcessingPipeline) -> ProcessingPipeline:
    return ProcessingPipeline.from_json(json.dumps(pipeline.as_json()))


def document(*steps: Json, **others: object) -> str:
    return json.dumps({"capturekit_pipeline": 1, "steps": steps, **others})


conditions = st.one_of(
    st.none(),
    st.just(is_wide),
    st.builds(
        When,
        st.just("size.width"),
        among=st.none() | st.lists(st.integers() | st.text() | st.none()).map(tuple),
        above=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    ),
)
steps = st.one_of(
    st.sampled_from([ReadCodes(), JudgeQuality(), MakeThumbnail(), fail, read_colour]),
    st.builds(
        MeasureSize,
        kinds=st.lists(st.text()).map(tuple),
        factor=st.floats(min_value=0, allow_infinity=False),
    ),
)
stages = st.builds(
    Stage,
    steps,
    on_error=st.sampled_from(["fail", "skip", "degrade"]),
    deadline_s=st.none() | st.floats(min_value=1e-3, max_value=86_400),
    when=conditions,
)


@given(
    st.lists(steps | stages, max_size=4),
    st.sampled_from(ON_DAMAGE),
    st.integers(min_value=1, max_value=10**9),
)
def test_a_pipeline_comes_back_from_json_as_it_was(
    made: list[Stage], on_damage: OnDamage, max_pixels: int
) -> None:
    before = ProcessingPipeline(
        (MeasureSize(), *made),
        on_damage=on_damage,
        max_pixels=max_pixels,
        colour=True,
    )

    after = again(before)

    assert after == before
    assert after.fingerprint == before.fingerprint
    assert after.as_json() == before.as_json()


def test_a_whole_number_is_the_same_as_integer_and_as_float() -> None:
    as_integer = ProcessingPipeline((Stage(MeasureSize(factor=2), deadline_s=5),))
    as_float = ProcessingPipeline((Stage(MeasureSize(factor=2.0), deadline_s=5.0),))

    assert as_integer.fingerprint == as_float.fingerprint == again(as_integer).fingerprint


def test_the_default_pipeline_is_written_with_names_people_can_read() -> None:
    written = default_pipeline().as_json()

    assert written["capturekit_pipeline"] == 1
    assert isinstance(written["steps"], list)
    names = [step["step"] for step in written["steps"] if isinstance(step, dict)]
    assert names == ["quality", "codes", "thumbnail"]


def test_steps_of_your_own_are_written_with_their_place() -> None:
    written = ProcessingPipeline((MeasureSize(), fail)).as_json()["steps"]

    assert isinstance(written, list)
    assert [step["step"] for step in written if isinstance(step, dict)] == [
        f"{HERE}:MeasureSize",
        f"{HERE}:fail",
    ]


def test_a_step_that_cannot_be_found_again_is_not_written() -> None:
    def inner(frame: Frame) -> Frame:
        return frame

    for step in (inner, lambda frame: frame):
        with pytest.raises(TypeError, match="cannot be written"):
            ProcessingPipeline((step,)).as_json()


def test_a_model_is_checked_against_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"one")
    pipeline = ProcessingPipeline((UseModel(ModelFile(file), ((0.5, 1.0),)),))
    written = json.dumps(pipeline.as_json())

    assert ProcessingPipeline.from_json(written) == pipeline
    file.write_bytes(b"two")

    with pytest.raises(ConfigError, match="has SHA-256"):
        ProcessingPipeline.from_json(written)


def test_a_models_place_is_not_in_the_fingerprint(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("here", "there", "other")]
    for file, content in zip(files, (b"one", b"one", b"two"), strict=True):
        file.write_bytes(content)

    here, there, other = (
        ProcessingPipeline((UseModel(ModelFile(file)),)).fingerprint for file in files
    )

    assert here == there != other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid JSON"),
        ("[]", "document: "),
        ("{}", "capturekit_pipeline: Field required"),
        ('{"capturekit_pipeline": 2, "steps": []}', "capturekit_pipeline: Input should be 1"),
        (document(max_pixels=0), "max_pixels: "),
        (document(speed=1), "speed: Extra inputs"),
        (document({"step": "nothing"}), "no step is named 'nothing'; installed are: .*codes"),
        (document({"step": "nowhere:step"}), "no step at 'nowhere:step'"),
        (document({"step": "json:nothing"}), "no step at 'json:nothing'"),
        (document({"step": ":"}), "no step at ':'"),
        (document({"step": "json:JSONDecoder"}), "is no step: it is not a dataclass"),
        (document({"step": f"{HERE}:Size", "with": {"width": 1}}), "it is not callable"),
        (document({"step": f"{HERE}:HERE"}), "no step at"),
        (document({"step": f"{HERE}:fail", "with": {"a": 1}}), "takes no parameters"),
        (document({"step": "codes", "with": {"formats": ["X"]}}), "'codes': .*'X' names"),
        (document({"step": f"{HERE}:MeasureSize", "with": {"factor": -1}}), "factor is -1"),
        (document({"step": f"{HERE}:MeasureSize", "version": 2}), "is version 3 here"),
        (document({"step": f"{HERE}:fail", "when": "json:nothing"}), "no step at 'json:nothing'"),
        (document({"step": f"{HERE}:fail", "when": f"{HERE}:__doc__"}), "is no condition"),
        (document({"step": f"{HERE}:DoubleSize"}), "'double' needs Size"),
        (document({"step": "codes", "with": {"efort": "fast"}}), "no parameter efort; it has: eff"),
        (document({"step": "zones", "with": {"zones": [{"lokation": "a"}]}}), "zones.0.location"),
        (document({"step": ".made_steps:fail"}), "no step at"),
    ],
)
def test_a_document_that_is_wrong_says_where(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProcessingPipeline.from_json(text)


keys = st.sampled_from(["capturekit_pipeline", "steps", "step", "with", "when"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
)


@given(anything)
def test_no_document_raises_anything_else(value: object) -> None:
    with contextlib.suppress(ConfigError):
        ProcessingPipeline.from_json(json.dumps(value))


def test_a_file_is_loaded_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.json"
    file.write_text(json.dumps((MeasureSize() | DoubleSize()).as_json()))

    assert load_pipeline(str(file)) == MeasureSize() | DoubleSize()
    for content in (b"\xff", b"{}"):
        file.write_bytes(content)
        with pytest.raises(ConfigError):
            load_pipeline(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_pipeline(str(tmp_path / "none.json"))


@pytest.mark.parametrize("text", ["1 / 0", "raise ValueError", "def f(:", "raise SystemError"])
def test_a_module_that_cannot_be_imported_is_a_config_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_pipeline.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ConfigError, match="no pipeline at 'broken_pipeline:pipeline'"):
        load_pipeline("broken_pipeline:pipeline")
    with pytest.raises(ConfigError, match="no step at 'broken_pipeline:step'"):
        ProcessingPipeline.from_json(document({"step": "broken_pipeline:step"}))


def test_isolation_is_written_down() -> None:
    assert again(ProcessingPipeline(isolated=True)).isolated


def test_a_pipeline_that_differs_is_not_equal() -> None:
    pipeline = default_pipeline()

    assert again(replace(pipeline, max_bytes=5000)) != pipeline
