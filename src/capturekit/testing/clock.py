"""A clock that moves when it is told to."""


class FakeClock:
    """Stands where ``clock=`` is asked for, so that no test sleeps.

    ``now`` is in seconds since 1970, and begins in November 2023.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time, as ``time.time`` gives it."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass; backwards when negative, as clocks are set back at times."""
        self.now += seconds
