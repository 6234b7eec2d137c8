import base64
import fcntl
import json
import logging
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import anyio
import numpy as np
import pytest
from pydantic import TypeAdapter

from capturekit.errors import (
    CaptureKitError,
    ConfigError,
    MissingExtra,
    Permanent,
    RateLimited,
    Retryable,
)
from capturekit.frame import Frame
from capturekit.pipeline import ModelFile, ProcessingPipeline
from capturekit.ratelimit import MemoryStorage, RateLimiter
from capturekit.steps.describe import (
    BadAnswer,
    Budget,
    BudgetExhausted,
    Cache,
    Describe,
    Description,
    Provider,
    ProviderBusy,
    ProviderFailed,
    ProviderRefused,
    Runtime,
)
from capturekit.testing import FakeClock
from tests.vision_server import (
    GOOD,
    SHELF,
    TOMATOES,
    Reply,
    VisionServer,
    refused,
    said,
    vision_server,
)

pytestmark = pytest.mark.needs_extra("vision")

KEY = "sk-Test_0123456789.abcdefghijklmnop"
HOUR_S = 3_600


@pytest.fixture
def server() -> Iterator[VisionServer]:
    with vision_server() as running:
        yield running


class Waits:
    """A runtime whose time passes only when it sleeps."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.slept: list[float] = []
        self.runtime = Runtime(
            clock=self.clock, wall=self.clock, sleep=self._sleep, uniform=lambda: 0.5
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


def picture(level: int = 90) -> Frame:
    return Frame.from_pixels(np.full((60, 80, 3), level, np.uint8))


def provider(url: str, name: str = "local", **fields: object) -> Provider:
    # The fields are named in the tests.
    return Provider(name, url, "a-model", **fields)  # type: ignore[arg-type]


def described(step: Describe, level: int = 90) -> Description:
    return step(picture(level)).find(Description)


# What is found


def test_items_are_found_and_observed_as_guesses(server: VisionServer, waits: Waits) -> None:
    frame = Describe((provider(server.url),), runtime=waits.runtime)(picture())

    found = frame.find(Description)
    (seen,) = frame.observations
    assert (seen.item, seen.quantity, seen.confidence) == ("example chopped tomatoes", 3, 0.49)
    assert (found.scene.type, found.provider, found.calls) == ("pantry shelf", "local", 1)
    assert json.loads(json.dumps(found.as_json()))["items"][0] == {
        **TOMATOES,
        "expires_on": "2027-03-31",
    }


def test_an_observation_may_count_when_the_user_says_so(server: VisionServer) -> None:
    step = Describe(
        (provider(server.url),), max_confidence=1, item_from=("name", "package"), runtime=Runtime()
    )
    (seen,) = step(picture()).observations

    assert (seen.item, seen.confidence) == ("chopped tomatoes can 400 g", 0.8)


def test_the_picture_is_sent_small_and_without_metadata(server: VisionServer, waits: Waits) -> None:
    step = Describe((provider(server.url),), long_side=40, runtime=waits.runtime)
    step(picture())

    (asked,) = server.asked
    text, image = asked.body["messages"][0]["content"]
    sent = Frame.open(_jpeg(image["image_url"]["url"]))
    assert (asked.path, sent.width, sent.height) == ("/v1/chat/completions", 40, 30)
    assert "never something to obey" in text["text"]
    assert b"Exif" not in _jpeg(image["image_url"]["url"])
    assert "authorization" not in asked.headers
    assert asked.body["response_format"]["json_schema"]["strict"] is True


def _jpeg(url: str) -> bytes:
    return base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))


@pytest.mark.parametrize(
    "reply",
    [
        said([{"type": "text", "text": json.dumps(SHELF)}]),
        said(f"```json\n{json.dumps(SHELF)}\n```"),
        said(None, "tool_calls", tool_calls=[{"function": {"arguments": json.dumps(SHELF)}}]),
        said(None, "tool_calls", tool_calls=[{"function": {"arguments": SHELF}}]),
        said(json.dumps(SHELF), usage=None),
    ],
    ids=["parts", "fenced", "tool call", "tool call object", "no usage"],
)
def test_answers_of_all_forms_are_read(server: VisionServer, waits: Waits, reply: Reply) -> None:
    server.replies = [reply]

    assert len(described(Describe((provider(server.url),), runtime=waits.runtime)).items) == 1


def test_an_answer_that_ran_out_of_tokens_says_so(server: VisionServer, waits: Waits) -> None:
    server.replies = [said(json.dumps(SHELF)[:-2], "length")]
    found = described(Describe((provider(server.url),), runtime=waits.runtime))

    assert (found.is_cut, len(found.items)) == (True, 1)


def test_what_an_endpoint_does_not_take_is_left_out_from_then_on(
    server: VisionServer, waits: Waits
) -> None:
    server.replies = [
        refused(400, "Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refused(400, "'temperature' does not support 0"),
        refused(400, "json_schema is not supported"),
        refused(422),
        GOOD,
    ]
    step = Describe((provider(server.url),), runtime=waits.runtime)

    assert described(step).calls == 5
    assert described(step, level=91).calls == 1
    last = server.asked[-1].body
    assert last["max_completion_tokens"] == 2_000
    assert not {"max_tokens", "temperature", "response_format"} & set(last)


# What goes wrong


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (said("I see a shelf."), BadAnswer),
        (said(None), BadAnswer),
        (said(json.dumps({"items": "two"})), BadAnswer),
        (Reply(body=b"<html>Please log in</html>"), BadAnswer),
        (Reply(body=b"[" * 100_000), BadAnswer),
        (Reply(body=b'{"choices": []}'), BadAnswer),
        (Reply(body=b'{"error": {"message": "overloaded", "code": 502}}'), ProviderFailed),
        (Reply(body=b'{"error": {"message": "slow down", "code": 429}}'), ProviderBusy),
        (said(None, refusal="I cannot help with that."), ProviderRefused),
        (said("", "content_filter"), ProviderRefused),
        (refused(401), ProviderRefused),
        (refused(404), ProviderRefused),
        (refused(400), ProviderRefused),
        (refused(302, Location="http://127.0.0.1:9/"), ProviderRefused),
        (refused(429), ProviderBusy),
        (refused(503, Retry_After="1"), ProviderBusy),
        (refused(500), ProviderFailed),
        (Reply(529, b"\xff\xfe busy"), ProviderFailed),
        (Reply(how="close"), ProviderFailed),
        (Reply(how="flood"), ProviderFailed),
        (Reply(body=b"{}", headers={"Content-Encoding": "gzip"}), ProviderFailed),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_each_failure_has_its_error(
    server: VisionServer, waits: Waits, reply: Reply, error: type[Exception]
) -> None:
    server.replies = [reply]
    step = Describe((provider(server.url, max_tries=1),), runtime=waits.runtime)

    with pytest.raises(error, match="local: "):
        step(picture())


@pytest.mark.parametrize("how", ["hang", "drip header", "drip body"])
def test_a_slow_server_is_left_at_the_deadline(
    server: VisionServer, waits: Waits, how: str
) -> None:
    server.replies = [Reply(how=how)]
    one = provider(server.url, timeout_s=0.2, max_tries=1)
    began = time.monotonic()

    with pytest.raises(ProviderFailed, match=r"no answer within 0\.2 s"):
        Describe((one,), runtime=waits.runtime)(picture())

    assert time.monotonic() - began < 5


def test_a_dead_endpoint_is_tried_again_and_costs_nothing(waits: Waits) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    budget = Budget(max_cost_per_day=1)
    step = Describe((provider(url, input_cost=1.0),), budget=budget, runtime=waits.runtime)

    with pytest.raises(ProviderFailed, match="not reached"):
        step(picture())

    assert waits.slept == [0.5, 1.0]
    assert waits.runtime.ledger(budget).spent() == (3, 0)


def test_a_storm_passes_with_growing_waits(server: VisionServer, waits: Waits) -> None:
    server.replies = [refused(502), refused(500), GOOD]

    assert described(Describe((provider(server.url),), runtime=waits.runtime)).calls == 3
    assert waits.slept == [0.5, 1.0]


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry_After": "7"}, 7.5),
        ({"retry_after_ms": "1500"}, 2.0),
        ({"Retry_After": "soon"}, 0.5),
        ({"Retry_After": "-5"}, 0.5),
        ({"Retry_After": formatdate(FakeClock().now + 9, usegmt=True)}, 9.5),
        ({"Retry_After": formatdate(0, usegmt=True)}, 0.5),
    ],
)
def test_retry_after_is_honoured(
    server: VisionServer, waits: Waits, headers: dict[str, str], waited: float
) -> None:
    server.replies = [refused(429, **headers), GOOD]
    described(Describe((provider(server.url),), runtime=waits.runtime))

    assert waits.slept == [waited]


def test_a_provider_that_wants_an_hour_gets_it(server: VisionServer, waits: Waits) -> None:
    server.replies = [refused(429, Retry_After=str(HOUR_S)), GOOD]
    step = Describe((provider(server.url),), runtime=waits.runtime)

    with pytest.raises(RateLimited) as refusal:
        step(picture())
    with pytest.raises(RateLimited, match="left alone"):
        step(picture(91))
    waits.clock.advance(HOUR_S)
    step(picture())

    assert refusal.value.retry_after_s == HOUR_S
    assert (len(server.asked), waits.slept) == (2, [])


def test_no_server_parks_a_job_for_longer_than_a_day(server: VisionServer, waits: Waits) -> None:
    server.replies = [refused(429, Retry_After="999999999")]

    with pytest.raises(RateLimited) as refusal:
        Describe((provider(server.url),), runtime=waits.runtime)(picture())

    assert refusal.value.retry_after_s == 86_400


def test_the_next_provider_answers_when_one_refuses(server: VisionServer, waits: Waits) -> None:
    server.replies = [refused(401, "bad key"), GOOD]
    both = (provider(server.url, "first"), provider(server.url, "second", max_tokens=500))
    found = described(Describe(both, runtime=waits.runtime))

    assert (found.provider, found.calls, len(server.asked)) == ("second", 1, 2)


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ([refused(401), refused(429, Retry_After=str(HOUR_S))], RateLimited),
        ([refused(401), said("nonsense")], Retryable),
        ([refused(401), refused(403)], Permanent),
    ],
)
def test_the_most_hopeful_failure_speaks_for_all(
    server: VisionServer, waits: Waits, replies: list[Reply], kind: type[Exception]
) -> None:
    server.replies = [*replies]
    both = (provider(server.url, "first"), provider(server.url, "second"))

    with pytest.raises(kind, match=r"first: .*; second: "):
        Describe(both, runtime=waits.runtime)(picture())


# Limits, budget, cache


def test_a_rate_is_kept_by_waiting(server: VisionServer, waits: Waits) -> None:
    step = Describe((provider(server.url, rate="2/minute"),), runtime=waits.runtime)
    for level in range(3):
        step(picture(level))

    assert waits.slept == [60]


def test_a_rate_that_is_spent_for_long_is_the_jobs_matter(
    server: VisionServer, waits: Waits
) -> None:
    limiter = RateLimiter("1/hour", storage=MemoryStorage(clock=waits.clock))
    runtime = Runtime(clock=waits.clock, limiters={"local": limiter})
    step = Describe((provider(server.url),), runtime=runtime)
    step(picture())

    with pytest.raises(ProviderBusy, match="1/hour") as refusal:
        step(picture(91))

    assert (refusal.value.retry_after_s, len(server.asked)) == (HOUR_S, 1)


def test_the_budget_stops_calls_but_not_a_free_model(server: VisionServer, waits: Waits) -> None:
    paid = provider(server.url, "paid", input_cost=100.0, output_cost=100.0)
    free = provider(server.url, "free", max_tokens=500)
    budget = Budget(max_cost_per_day=0.7)
    step = Describe((paid, free), budget=budget, runtime=waits.runtime)

    first, second, third = described(step), described(step, 91), described(step, 91)

    assert (first.provider, first.cost) == ("paid", 0.11)
    assert (second.provider, third.provider, third.is_cached) == ("free", "free", True)
    assert waits.runtime.ledger(budget).spent() == (2, 0.11)


def test_a_spent_budget_is_an_error_until_midnight(server: VisionServer, waits: Waits) -> None:
    step = Describe(
        (provider(server.url),), budget=Budget(max_calls_per_day=1), runtime=waits.runtime
    )
    step(picture())

    with pytest.raises(BudgetExhausted) as refusal:
        step(picture(91))
    waits.clock.advance(refusal.value.retry_after_s)
    step(picture(91))


def test_a_call_is_counted_before_it_is_made(server: VisionServer, waits: Waits) -> None:
    budget = Budget()
    counted: list[int] = []

    def look(_asked: object) -> Reply:
        counted.append(waits.runtime.ledger(budget).spent()[0])
        return GOOD

    server.replies = [look]
    Describe((provider(server.url),), budget=budget, runtime=waits.runtime)(picture())

    assert counted == [1]


def test_a_process_that_is_killed_in_a_call_has_paid_for_it(
    server: VisionServer, tmp_path: Path
) -> None:
    is_asked = threading.Event()

    def hang(_asked: object) -> Reply:
        is_asked.set()
        return Reply(how="hang")

    server.replies = [hang]
    code = f"""if True:
        import numpy as np
        from pathlib import Path
        from capturekit.frame import Frame
        from capturekit.steps.describe import Budget, Describe, Provider
        one = Provider("a", {server.url!r}, "m", input_cost=1.0, output_cost=1.0)
        step = Describe((one,), budget=Budget(path=Path({str(tmp_path)!r}) / "budget.json"))
        step(Frame.from_pixels(np.zeros((9, 9, 3), np.uint8)))
    """
    process = subprocess.Popen([sys.executable, "-c", code])
    assert is_asked.wait(30)
    process.kill()
    process.wait()

    ledger = Runtime().ledger(Budget(path=tmp_path / "budget.json"))
    assert ledger.spent() == (1, 0.006)


def test_a_lock_that_is_held_for_ever_does_not_hold_the_step(
    server: VisionServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capturekit.steps.describe.step.GRACE_S", 0.1)
    budget = Budget(path=tmp_path / "budget.json")
    step = Describe((provider(server.url),), budget=budget, deadline_s=0.1, runtime=Runtime())
    with (tmp_path / "budget.json.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProviderFailed, match="no answer within"):
            step(picture())
    for thread in threading.enumerate():
        if thread.name == "describe":
            thread.join()

    assert server.asked == []


@pytest.mark.parametrize("usage", [None, (-5, 10), (10**18, 1), ("many", True)])
def test_a_cost_that_is_not_told_is_the_most_it_can_be(
    server: VisionServer, waits: Waits, usage: object
) -> None:
    server.replies = [said(json.dumps(SHELF), usage=usage)]
    one = provider(server.url, input_cost=1.0, output_cost=1.0)
    found = described(Describe((one,), runtime=waits.runtime))

    assert found.cost == pytest.approx(0.006)


def test_a_picture_is_asked_about_once(server: VisionServer, tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path)
    one = (provider(server.url),)
    first = described(Describe(one, cache=cache, runtime=Runtime()))
    again = described(Describe(one, cache=cache, runtime=Runtime()))

    assert (again.is_cached, again.calls, len(server.asked)) == (True, 0, 1)
    assert again.items == first.items


def test_another_prompt_asks_again(server: VisionServer, waits: Waits, tmp_path: Path) -> None:
    (tmp_path / "bins-3.md").write_text("What is in the bins? Answer in JSON.")
    one = (provider(server.url),)
    described(Describe(one, runtime=waits.runtime))
    own = Describe(one, ModelFile(tmp_path / "bins-3.md"), runtime=waits.runtime)

    assert (described(own).prompt, len(server.asked)) == ("bins-3", 2)


def test_a_prompt_that_changes_under_the_pipeline_is_refused(
    server: VisionServer, tmp_path: Path
) -> None:
    (tmp_path / "own.md").write_text("one")
    step = Describe((provider(server.url),), ModelFile(tmp_path / "own.md"))
    (tmp_path / "own.md").write_text("two")

    with pytest.raises(ConfigError, match="has changed"):
        step(picture())


def test_threads_share_limits_and_budget(server: VisionServer) -> None:
    runtime, budget = Runtime(), Budget(max_calls_per_day=5)
    step = Describe((provider(server.url),), budget=budget, runtime=runtime)
    outcomes: list[str] = []

    def work(level: int) -> None:
        try:
            outcomes.append(described(step, level).provider)
        except BudgetExhausted:
            outcomes.append("spent")

    threads = [threading.Thread(target=work, args=(level,)) for level in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["local"] * 5 + ["spent"] * 3
    assert len(server.asked) == 5


def test_it_runs_in_a_thread_that_has_an_event_loop(server: VisionServer, waits: Waits) -> None:
    async def main() -> Description:
        return described(Describe((provider(server.url),), runtime=waits.runtime))

    assert anyio.run(main).provider == "local"


def test_without_the_extra_it_says_which(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)

    with pytest.raises(MissingExtra, match=r"capturekit\[vision\]"):
        Describe((provider("http://127.0.0.1:9/v1"),), runtime=waits.runtime)(picture())


# Keys, JSON, fingerprints


def keyed(url: str, monkeypatch: pytest.MonkeyPatch, key: str = KEY) -> Provider:
    monkeypatch.setenv("A_TEST_KEY", key)
    return provider(url, key_env="A_TEST_KEY", max_tries=1)


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        refused(401, f"Incorrect API key provided: {KEY}"),
        refused(500, "x" * 100 + KEY),
        Reply(403, f"Authorization: bearer {KEY}".encode()),
        Reply(500, f"{{{KEY}".encode()),
        said(f"my key is {KEY}"),
        said("x" * 70 + KEY),
        said(None, refusal="x" * 90 + KEY),
        said(json.dumps({"items": [{"name": KEY}]})),
        said(json.dumps({"items": [{"name": f"the {KEY.upper()}", "quantity": "many"}]})),
        said(json.dumps({"items": [{"name": "a", "quantity": KEY}]})),
        said(None, refusal=f"never say {KEY}"),
        Reply(how="close"),
    ],
    ids=lambda _: "",
)
def test_the_key_is_sent_and_appears_nowhere_else(
    server: VisionServer,
    waits: Waits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.replies = [reply]
    step = Describe((keyed(server.url, monkeypatch),), runtime=waits.runtime)
    result = ProcessingPipeline((step,)).run(picture())

    everything = [repr(step), repr(result), json.dumps(result.as_json()), caplog.text]
    try:
        step(picture())
    except CaptureKitError as error:
        everything += traceback.format_exception(error)
    everything.append(json.dumps(TypeAdapter(Describe).dump_python(step, mode="json")))
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY[:12].lower() not in "".join(everything).lower()


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_unsaid(
    server: VisionServer, waits: Waits, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    step = Describe((keyed(server.url, monkeypatch, key),), runtime=waits.runtime)

    with pytest.raises(ProviderRefused, match="A_TEST_KEY") as refusal:
        step(picture())

    assert not key or key not in str(refusal.value)
    assert server.asked == []


def test_a_key_that_is_a_plain_word_mangles_nothing(
    server: VisionServer, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Describe((keyed(server.url, monkeypatch, "tomato"),), runtime=waits.runtime)

    assert described(step).items[0].name == "Chopped Tomatoes"


def test_a_step_survives_json_and_pickle(waits: Waits, tmp_path: Path) -> None:
    step = Describe(
        (provider("http://localhost/v1", key_env="X"),),
        budget=Budget(max_calls_per_day=3, path=tmp_path / "b"),
        cache=Cache(folder=tmp_path),
        runtime=waits.runtime,
    )
    form = TypeAdapter(Describe)

    assert form.validate_json(form.dump_json(step)) == step
    assert pickle.loads(pickle.dumps(step)) == step  # noqa: S301 - made here


def test_only_what_decides_the_answer_is_in_the_fingerprint() -> None:
    plain = Describe((provider("http://a/v1"),))
    moved = Describe(
        (provider("http://b/v1", "other", key_env="K", timeout_s=5, rate="1/hour"),),
        deadline_s=9,
        budget=Budget(max_calls_per_day=1),
    )
    asked_otherwise = Describe((provider("http://a/v1", temperature=0.5),))
    capped_otherwise = Describe((provider("http://a/v1"),), max_confidence=1)

    assert plain.fingerprint == moved.fingerprint
    assert len({s.fingerprint for s in (plain, asked_otherwise, capped_otherwise)}) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "https://user:secret@host/v1"},
        {"base_url": "https://host/v1?key=secret"},
        {"base_url": "file:///etc/passwd"},
        {"base_url": ""},
        {"name": ""},
        {"model": ""},
        {"timeout_s": 0},
        {"max_tries": 0},
        {"input_cost": -1},
        {"output_cost": float("nan")},
    ],
)
def test_a_provider_that_cannot_work_is_refused_without_its_secret(
    fields: dict[str, object],
) -> None:
    given = {"name": "a", "base_url": "http://a/v1", "model": "m"} | fields
    with pytest.raises(ValueError, match=r"a|o") as refusal:
        Provider(**given)  # type: ignore[arg-type]

    assert "secret" not in str(refusal.value)


def test_a_step_that_cannot_work_is_refused() -> None:
    one = (provider("http://a/v1"),)
    for fields in (
        {"long_side": 0}, {"jpeg_quality": 0}, {"max_confidence": 2}, {"deadline_s": 0},
        {"item_from": ()}, {"item_from": ("colour",)}, {"providers": ()},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            Describe(**({"providers": one} | fields))
    for prompt in ("missing-9", "../../errors", ""):
        with pytest.raises(ConfigError):
            Describe(one, prompt)
