from pathlib import Path

import pytest

from capturekit.steps.describe.answer import read_answer
from capturekit.steps.describe.cache import Answers, Cache, KeptAnswer, cache_key


def kept(name: str) -> KeptAnswer:
    answer = read_answer(f'{{"items": [{{"name": "{name}"}}]}}').answer
    return KeptAnswer(
        answer=answer, problems=(), is_cut=False, input_tokens=1, output_tokens=None, cost=0.5
    )


def test_the_least_used_answer_is_forgotten_first() -> None:
    answers = Answers(Cache(max_entries=2))
    answers.put("a", kept("a"))
    answers.put("b", kept("b"))
    answers.get("a")
    answers.put("c", kept("c"))

    assert [answers.get(key) is not None for key in "abc"] == [True, False, True]


def test_a_folder_keeps_answers_for_other_processes(tmp_path: Path) -> None:
    cache = Cache(max_entries=0, folder=tmp_path)
    Answers(cache).put("abc", kept("milk"))

    assert Answers(cache).get("abc") == kept("milk")


@pytest.mark.parametrize("content", ["", "{}", '{"answer": {"items": "many"}}', "\0" * 2_000_000])
def test_a_damaged_entry_is_no_answer(tmp_path: Path, content: str) -> None:
    Answers(Cache(folder=tmp_path)).put("abc", kept("milk"))
    next(tmp_path.rglob("*.json")).write_text(content)

    assert Answers(Cache(folder=tmp_path)).get("abc") is None


def test_a_folder_that_cannot_be_written_costs_only_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    answers = Answers(Cache(folder=tmp_path / "file"))
    answers.put("abc", kept("milk"))

    assert answers.get("abc") == kept("milk")
    assert "is not kept" in caplog.text


def test_picture_prompt_and_question_each_name_another_answer() -> None:
    asked = [("a", "p", "m"), ("b", "p", "m"), ("a", "q", "m"), ("a", "p", "n")]

    assert len({cache_key(jpeg.encode(), prompt, model) for jpeg, prompt, model in asked}) == 4
