"""What a queue refuses: more than may wait, and what is no JSON."""
# ruff: noqa: D102  # the name of a test is its sentence

from collections.abc import AsyncIterator

import pytest
from pydantic import JsonValue

from capturekit.errors import QueueFull, UnknownJob
from capturekit.queue.base import Job, JobState, QueueBackend
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract.jobs import BOOM, QueueTests, a_job, start

ODD_TEXTS = (
    *("a b", "a:b", "a'b\"c", "a\\b", "a%b", "a_b", "a*", "{a}", "a\nb", "ä\u2028", "\U0001f4a9"),
    *("a" * 100, "0", "1e3", "null", "a\x01"),
)


def a_nest(depth: int) -> JsonValue:
    """Lists in lists."""
    return [a_nest(depth - 1)] if depth else []


class LimitTests(QueueTests):
    """What may wait, and what may be in a job."""

    @pytest.fixture
    async def small(self, clock: FakeClock) -> AsyncIterator[QueueBackend]:
        """A queue in which three jobs may wait."""
        async with self.make_queue(clock, max_waiting=3) as queue:
            yield queue

    # Full queues

    async def test_a_full_queue_refuses_one_more(self, small: QueueBackend) -> None:
        await small.submit(a_job("a"), a_job("b"), a_job("c"))
        with pytest.raises(QueueFull, match="3 waiting jobs") as caught:
            await small.submit(a_job("d"))
        assert caught.value.max_waiting == 3
        with pytest.raises(UnknownJob):
            await small.status("d")

    async def test_a_full_queue_takes_all_or_none(self, small: QueueBackend) -> None:
        await small.submit(a_job("a"), a_job("b"))
        with pytest.raises(QueueFull):
            await small.submit(a_job("c", unique_key="k"), a_job("a"), a_job("d", batch="x"))
        assert {status.id for status in await small.statuses()} == {"a", "b"}
        assert (await small.stats()).depth[JobState.QUEUED] == 2
        (answer,) = await small.submit(a_job("e", unique_key="k"))
        assert answer.is_new

    async def test_more_than_may_wait_are_refused_at_once(self, small: QueueBackend) -> None:
        with pytest.raises(QueueFull):
            await small.submit(*(a_job(f"{number}") for number in range(300)))
        assert await small.statuses() == []

    async def test_a_full_queue_still_answers_for_known_jobs(self, small: QueueBackend) -> None:
        jobs = [a_job(job_id, unique_key=job_id) for job_id in "abc"]
        await small.submit(*jobs)
        answers = await small.submit(*jobs, a_job("d", unique_key="a"))
        assert [(each.id, each.is_new) for each in answers] == [
            ("a", False),
            ("b", False),
            ("c", False),
            ("a", False),
        ]

    async def test_what_is_dropped_within_a_submission_needs_no_room(
        self, small: QueueBackend
    ) -> None:
        keyed = [a_job(job_id, unique_key="k") for job_id in "abc"]
        answers = await small.submit(*keyed, *keyed, a_job("d"), a_job("d"), a_job("e"))
        assert sum(answer.is_new for answer in answers) == 3

    @pytest.mark.parametrize("reason", ["delayed", "backing off", "its turn is not come"])
    async def test_whatever_waits_counts(self, small: QueueBackend, reason: str) -> None:
        if reason == "delayed":
            await small.submit(a_job("a", delay_s=60))
        elif reason == "backing off":
            await small.fail(await start(small), BOOM)
        else:
            await start(small, a_job("running", concurrency_key="k"))
            await small.submit(a_job("a", concurrency_key="k"))
        with pytest.raises(QueueFull):
            await small.submit(a_job("b"), a_job("c"), a_job("d"))
        await small.submit(a_job("b"), a_job("c"))

    @pytest.mark.parametrize("way", ["claim", "finish", "cancel"])
    async def test_what_does_not_wait_leaves_room(self, small: QueueBackend, way: str) -> None:
        for job_id in "abcde":
            await small.submit(a_job(job_id))
            if way == "cancel":
                await small.cancel(job_id)
            else:
                (lease,) = await small.claim("w")
                if way == "finish":
                    await small.finish(lease)
        await small.submit(a_job("x"), a_job("y"), a_job("z"))

    async def test_what_comes_back_is_never_refused(self, small: QueueBackend) -> None:
        released, failed = [await start(small, a_job(job_id)) for job_id in "ab"]
        await small.submit(a_job("c"), a_job("d"), a_job("e"))
        await small.release(released)
        await small.fail(failed, BOOM, is_permanent=True)
        assert (await small.retry("b")).state is JobState.QUEUED
        assert (await small.stats()).depth[JobState.QUEUED] == 5
        with pytest.raises(QueueFull):
            await small.submit(a_job("f"))

    # What may be in a job

    @pytest.mark.parametrize(
        "value", ["\ud800", {"\udfff": 1}, ["\udc80"], float("nan"), float("inf"), {1}]
    )
    async def test_a_payload_that_is_no_json_is_refused(
        self, queue: QueueBackend, value: JsonValue
    ) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  # pydantic's or a plain one
            await queue.submit(a_job("good"), a_job("bad", payload={"x": value}))
        assert await queue.statuses() == []

    @pytest.mark.parametrize("result", [{"x": ["\ud800"]}, float("nan")])
    async def test_a_result_that_is_no_json_is_refused_and_the_job_still_held(
        self, queue: QueueBackend, result: JsonValue
    ) -> None:
        lease = await start(queue)
        with pytest.raises(ValueError):  # noqa: PT011  # pydantic's or a plain one
            await queue.finish(lease, result)
        assert (await queue.status("a")).state is JobState.RUNNING
        await queue.finish(lease, "now it is")

    @pytest.mark.parametrize(
        "payload",
        [
            {"": ""},
            {"\u0000": "\u0000"},
            {"deep": a_nest(50)},
            {"big": 10**100, "small": -(2**63) - 1},
            {"floats": [1.0, -0.0, 1e300, 5e-324]},
            {"empty": [{}, [], "", None]},
            {"__proto__": {"$ref": "#"}, "\U0001f4a9\ufffe": "\x7f\x1b"},
            {text: text for text in ODD_TEXTS},
        ],
    )
    async def test_any_json_object_is_a_payload(
        self, queue: QueueBackend, payload: dict[str, JsonValue]
    ) -> None:
        job = a_job(payload=payload)
        lease = await start(queue, job)
        assert repr(lease.job.payload) == repr(payload)
        assert repr((await queue.status("a")).payload) == repr(payload)
        await queue.finish(lease, payload)
        assert repr((await queue.status("a")).result) == repr(payload)

    async def test_names_may_hold_any_character(self, queue: QueueBackend) -> None:
        jobs: list[Job] = []
        for text in ODD_TEXTS:
            keys = dict.fromkeys(("batch", "unique_key", "concurrency_key"), text)
            jobs.append(a_job(text, queue=text, kind=text, payload={}).model_copy(update=keys))
        answers = await queue.submit(*jobs)
        assert [(each.id, each.is_new) for each in answers] == [(job.id, True) for job in jobs]
        assert (await queue.stats()).by_queue.keys() == set(ODD_TEXTS)
        for job in jobs:
            (lease,) = await queue.claim("w", limit=9, queues=[job.queue])
            assert lease.job == job
            assert (await queue.batch(job.id)).total == 1
            await queue.finish(lease)
            assert (await queue.status(job.id)).state is JobState.SUCCEEDED
