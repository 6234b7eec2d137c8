"""The description of the API: valid, complete, with examples that are what they say."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from capturekit.queue.base import JobState
from tests.servers import run_cli_anywhere

pytestmark = pytest.mark.needs_extra("server")


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    from capturekit.web.openapi import document
    from capturekit.web.routes import ROUTES

    return document(ROUTES)


def test_it_is_openapi(told: dict[str, Any]) -> None:
    validate(told)


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(told: dict[str, Any]) -> None:
    operations = [one for path in told["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]

    assert len(set(names)) == len(names) == len(operations) > 60
    assert all(one["summary"] and one["tags"] for one in operations)


def test_every_example_fits_its_schema(told: dict[str, Any]) -> None:
    examples = list(_examples(told))

    assert len(examples) > 60
    for schema, example in examples:
        whole = {**schema, "components": told["components"]}
        Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
            example
        )


def _examples(node: object) -> Iterator[tuple[dict[str, Any], object]]:
    """Each example with its schema: in schemas themselves, and beside them."""
    if isinstance(node, list):
        for one in node:
            yield from _examples(one)
    elif isinstance(node, dict):
        if isinstance(node.get("examples"), list):
            yield from ((node, example) for example in node["examples"])
        if "example" in node:
            yield node["schema"], node["example"]
        for name, one in node.items():
            if name not in ("example", "examples"):
                yield from _examples(one)


def test_words_for_states_are_those_of_the_store() -> None:
    from capturekit.store import CaptureState, MovementKind
    from capturekit.wire.captures import State
    from capturekit.wire.stock import Kind
    from capturekit.wire.tasks import TaskState

    for told, known in ((State, CaptureState), (Kind, MovementKind), (TaskState, JobState)):
        assert list(get_args(told)) == [one.value for one in known]


def test_the_command_prints_it(told: dict[str, Any]) -> None:
    assert json.loads(run_cli_anywhere("openapi")) == told
