"""Why there is no description, by what the caller can do about it.

When several providers failed, the error is of the most hopeful kind: wait, then try again,
then give up; its message tells of each.
"""

from collections.abc import Sequence

from capturekit.errors import Permanent, RateLimited, Retryable


class ProviderFailed(Retryable):
    """No usable answer came: not reached, too slow, an error of the server's own."""


class BadAnswer(Retryable):
    """The model answered, but with nothing that can be read as a description."""


class ProviderRefused(Permanent):
    """The server or the model will not answer this, however often it is asked.

    A wrong or missing key, an unknown model, a picture that its rules forbid.
    """


class ProviderBusy(RateLimited):
    """A limit on calls is reached: the provider's own, or ``Provider.rate``."""

    def __init__(self, message: str, retry_after_s: float, *, is_told: bool = True) -> None:
        super().__init__(message, retry_after_s)
        self.is_told = is_told
        """False when the provider did not say for how long, and ``retry_after_s`` is a guess."""


class BudgetExhausted(RateLimited):
    """The day's calls or cost are spent; ``retry_after_s`` is the time to midnight UTC."""


Failure = ProviderFailed | BadAnswer | ProviderRefused | ProviderBusy | BudgetExhausted
FAILURES = (ProviderFailed, BadAnswer, ProviderRefused, ProviderBusy, BudgetExhausted)
"""What one provider's turn may end with; the next provider is asked then."""


def summed_up(failures: Sequence[Failure]) -> Failure:
    """One error for all providers' failures, of the most hopeful kind."""
    message = "; ".join(str(failure) for failure in failures)
    waits = [failure for failure in failures if isinstance(failure, RateLimited)]
    if waits:
        return reworded(min(waits, key=lambda failure: failure.retry_after_s), message)
    hopeful = [failure for failure in failures if isinstance(failure, Retryable)]
    return reworded((hopeful or failures)[0], message)


def reworded(failure: Failure, message: str) -> Failure:
    """The same failure in other words."""
    if isinstance(failure, ProviderBusy):
        return ProviderBusy(message, failure.retry_after_s, is_told=failure.is_told)
    if isinstance(failure, BudgetExhausted):
        return BudgetExhausted(message, failure.retry_after_s)
    return type(failure)(message)
