"""Whose turn it is under a key, on both engines."""

import anyio
import pytest

from capturekit.store import Store
from capturekit.store.answers import KEPT_S, LEASE_S
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio


async def test_one_of_many_has_the_turn(store: Store) -> None:
    turns = []

    async def begin() -> None:
        turns.append(await store.answers.begin("key", "digest"))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(begin)

    assert sum(turn.is_mine for turn in turns) == 1
    assert all(turn.is_same and turn.sealed is None for turn in turns)


async def test_an_answer_is_kept_for_the_same_request(store: Store) -> None:
    turn = await store.answers.begin("key", "digest")
    await store.answers.keep(turn, "sealed")
    again = await store.answers.begin("key", "digest")
    other = await store.answers.begin("key", "another")

    assert (again.is_mine, again.is_same, again.sealed) == (False, True, "sealed")
    assert (other.is_mine, other.is_same) == (False, False)


async def test_a_turn_that_is_given_back_is_anyones(store: Store) -> None:
    turn = await store.answers.begin("key", "digest")
    await store.answers.forget(turn)

    assert (await store.answers.begin("key", "another")).is_mine


async def test_the_turn_of_the_dead_passes_on_once(store: Store, clock: Clock) -> None:
    dead = await store.answers.begin("key", "digest")
    clock.now += LEASE_S - 1
    assert not (await store.answers.begin("key", "digest")).is_mine
    clock.now += 2
    assert (await store.answers.begin("key", "digest")).is_mine
    assert not (await store.answers.begin("key", "digest")).is_mine

    await store.answers.keep(dead, "too late")
    assert (await store.answers.begin("key", "digest")).sealed is None


async def test_answers_are_forgotten_in_time(store: Store, clock: Clock) -> None:
    await store.answers.keep(await store.answers.begin("key", "digest"), "sealed")
    clock.now += KEPT_S + 1

    assert (await store.answers.begin("key", "another")).is_mine
