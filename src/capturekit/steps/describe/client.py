"""Asks one provider after the other, within a deadline, a rate, and a budget."""

import logging
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from capturekit.ratelimit import MemoryStorage, RateLimiter, RateLimitExceeded, acquire
from capturekit.steps.describe.answer import ReadAnswer, read_answer
from capturekit.steps.describe.budget import MICROS, Budget, Ledger
from capturekit.steps.describe.cache import Answers, Cache, KeptAnswer, cache_key
from capturekit.steps.describe.errors import (
    FAILURES,
    BadAnswer,
    Failure,
    ProviderBusy,
    ProviderFailed,
    reworded,
    summed_up,
)
from capturekit.steps.describe.http import NotReached, Response, post
from capturekit.steps.describe.prompt import Prompt
from capturekit.steps.describe.provider import Key, Provider
from capturekit.steps.describe.wire import (
    Completion,
    Dialect,
    detail_of,
    failure,
    parse_completion,
    request_body,
    retry_after_s,
)

logger = logging.getLogger("capturekit.steps.describe")

FIRST_BACKOFF_S: Final = 1.0
LONGEST_BACKOFF_S: Final = 30.0


class Runtime:
    """What steps share while they run: limiters, budgets, caches, and what was learned.

    Steps without one of their own share one in the process.

    Args:
        limiters: By a provider's name, in place of its ``rate``.
        clock: Seconds, monotonic.
        wall: Seconds since 1970, for days of budgets.
        sleep: Waits for so many seconds.
        uniform: A number from 0 to 1, for backoff.
    """

    def __init__(
        self,
        *,
        limiters: Mapping[str, RateLimiter] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.clock, self.wall, self.sleep, self.uniform = clock, wall, sleep, uniform
        self._given = dict(limiters or {})
        self._lock = threading.Lock()
        self._limiters: dict[Provider, RateLimiter] = {}
        self._ledgers: dict[Budget, Ledger] = {}
        self._answers: dict[Cache, Answers] = {}
        self.dialects: dict[Provider, Dialect] = {}
        """What each endpoint was found to take."""
        self.rests: dict[Provider, float] = {}
        """Until when, by ``clock``, a provider asked to be left alone."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        # A step that goes to another process uses that process's own.
        return type(None), ()

    def ledger(self, budget: Budget) -> Ledger:
        """The one ledger of this budget."""
        with self._lock:
            return self._ledgers.setdefault(budget, Ledger(budget, wall=self.wall))

    def answers(self, cache: Cache) -> Answers:
        """The one memory of this cache."""
        with self._lock:
            return self._answers.setdefault(cache, Answers(cache))

    def limiter(self, provider: Provider) -> RateLimiter | None:
        """What limits calls to this provider, if anything does."""
        given = self._given.get(provider.name)
        if given is not None or not provider.rate:
            return given
        with self._lock:
            if provider not in self._limiters:
                storage = MemoryStorage(clock=self.clock)
                self._limiters[provider] = RateLimiter(
                    provider.rate, name="describe", storage=storage
                )
            return self._limiters[provider]


@dataclass(frozen=True, slots=True)
class Question:
    """One picture to be described."""

    prompt: Prompt
    jpeg: bytes
    ends_at: float
    """By the runtime's clock; nothing is begun later."""
    budget: Budget
    cache: Cache


@dataclass(frozen=True, slots=True)
class Told:
    """An answer and whose it is."""

    kept: KeptAnswer
    provider: Provider
    calls: int
    """Requests sent for it, to this provider; 0 when it was kept from before."""


async def ask(question: Question, providers: Sequence[Provider], runtime: Runtime) -> Told:
    """The first provider's answer that can be had; else the most hopeful of the errors."""
    failures: list[Failure] = []
    for provider in providers:
        try:
            return await _Turn(question, provider, runtime).run()
        except FAILURES as error:
            named = _named(error, provider)
            logger.info("no description from %s", named)
            failures.append(named)
    raise summed_up(failures) from failures[0]


def _named(error: Failure, provider: Provider) -> Failure:
    message = str(error)
    if not message.startswith(f"{provider.name}: "):
        message = f"{provider.name}: {message}"
    return reworded(error, message)


class _Turn:
    """One provider's turn at one question."""

    def __init__(self, question: Question, provider: Provider, runtime: Runtime) -> None:
        self._question, self._provider, self._runtime = question, provider, runtime
        self._ledger = runtime.ledger(question.budget)
        self._calls = 0

    async def run(self) -> Told:
        question, answers = self._question, self._runtime.answers(self._question.cache)
        name = cache_key(question.jpeg, question.prompt.sha256, self._provider.asks)
        kept = answers.get(name)
        if kept is None:
            await self._rest_out()
            kept = await self._tried(self._provider.key())
            answers.put(name, kept)
        return Told(kept, self._provider, self._calls)

    async def _rest_out(self) -> None:
        wait_s = self._runtime.rests.get(self._provider, -math.inf) - self._runtime.clock()
        if wait_s >= self._left_s():
            raise ProviderBusy("it asked to be left alone", wait_s)
        if wait_s > 0:
            await self._runtime.sleep(wait_s)

    def _left_s(self) -> float:
        return self._question.ends_at - self._runtime.clock()

    async def _tried(self, key: Key) -> KeptAnswer:
        for tries in range(1, self._provider.max_tries + 1):
            try:
                return await self._asked(key)
            except (ProviderBusy, ProviderFailed) as error:
                wait_s = self._wait_s(error, tries)
                if tries == self._provider.max_tries or wait_s >= self._left_s():
                    self._rest(error)
                    raise
                await self._runtime.sleep(wait_s)
        raise AssertionError  # max_tries is at least 1

    def _wait_s(self, error: ProviderBusy | ProviderFailed, tries: int) -> float:
        longest: float = min(FIRST_BACKOFF_S * 2.0 ** (tries - 1), LONGEST_BACKOFF_S)
        asked_s = error.retry_after_s if isinstance(error, ProviderBusy) and error.is_told else 0.0
        return asked_s + longest * self._runtime.uniform()

    def _rest(self, error: ProviderBusy | ProviderFailed) -> None:
        if isinstance(error, ProviderBusy):
            self._runtime.rests[self._provider] = self._runtime.clock() + error.retry_after_s

    async def _asked(self, key: Key) -> KeptAnswer:
        """One answer, in the best dialect that the endpoint takes."""
        provider, runtime = self._provider, self._runtime
        dialect = runtime.dialects.get(provider) or Dialect(provider.response_format)
        while True:
            response, cost = await self._called(key, dialect)
            if 200 <= response.status < 300:
                runtime.dialects[provider] = dialect
                return self._read(response, key, cost)
            detail = detail_of(response.body, key)
            weaker = dialect.after(response.status, response.body)
            if weaker is None:
                wait_s = retry_after_s(response.headers, runtime.wall())
                raise failure(response.status, detail, wait_s)
            dialect = weaker

    async def _called(self, key: Key, dialect: Dialect) -> tuple[Response, float]:
        """One request, counted before it is sent; its answer, and what it cost."""
        question, provider = self._question, self._provider
        await self._pass_limiter()
        body = request_body(provider, dialect, question.prompt.text, question.jpeg)
        most = provider.micros(provider.max_input_tokens, provider.max_tokens)
        reserved = self._ledger.reserve(most)
        self._calls += 1
        try:
            response = await post(provider, key, body, self._timeout_s())
        except NotReached:
            self._ledger.settle(reserved, 0)
            raise
        cost = _cost(response, provider, most)
        if cost != most:
            self._ledger.settle(reserved, cost)
        return response, cost / MICROS

    def _timeout_s(self) -> float:
        left_s = self._left_s()
        if left_s <= 0:
            raise ProviderFailed("no time is left for it")
        return min(self._provider.timeout_s, left_s)

    async def _pass_limiter(self) -> None:
        limiter, runtime = self._runtime.limiter(self._provider), self._runtime
        if limiter is None:
            return
        try:
            await acquire(
                limiter,
                self._provider.name,
                wait_s=max(0.0, self._left_s()),
                clock=runtime.clock,
                sleep=runtime.sleep,
            )
        except RateLimitExceeded as exceeded:
            wait_s = exceeded.decision.retry_after_s
            raise ProviderBusy(f"its rate {limiter.rules!r} is spent", wait_s) from exceeded

    def _read(self, response: Response, key: Key, cost: float) -> KeptAnswer:
        try:
            # Hidden before anything is cut out of it: half a key is too much.
            completion = parse_completion(key.hidden(response.body.decode(errors="replace")))
            read = read_answer(key.hidden(completion.text))
        except FAILURES as error:
            raise reworded(error, key.blotted(str(error))) from None
        if key.is_in(read.answer.model_dump_json() + " ".join(read.problems)):
            raise BadAnswer("the answer holds the key that was sent")
        return _kept(read, completion, cost)


def _cost(response: Response, provider: Provider, most: int) -> int:
    """What a call did cost, in millionths; the most it could where the server does not say."""
    if not 200 <= response.status < 300:
        return 0
    try:
        told = parse_completion(response.body)
    except FAILURES:
        return most
    if told.input_tokens is None or told.output_tokens is None:
        return most
    return provider.micros(told.input_tokens, told.output_tokens)


def _kept(read: ReadAnswer, completion: Completion, cost: float) -> KeptAnswer:
    return KeptAnswer(
        answer=read.answer,
        problems=read.problems,
        is_cut=read.is_cut or completion.is_cut,
        input_tokens=completion.input_tokens,
        output_tokens=completion.output_tokens,
        cost=cost,
    )
