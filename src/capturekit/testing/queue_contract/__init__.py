"""What every queue must do, as tests: one for each sentence of ``QueueBackend``.

For a backend of your own, in a test file (anyio's pytest plugin runs it)::

    class TestMyQueue(QueueContract):
        def make_queue(self, clock, *, max_waiting=None):
            return MyQueue(clock=clock, max_waiting=max_waiting)

Processes share most backends. For those there is ``SharedQueueContract``, which wants three
methods more.
"""
# ruff: noqa: E402  # pytest must hear of the modules before they are imported

import pytest

# So that a failing assert shows its values.
for _part in ("jobs", "keys", "life", "limits", "orders", "shared", "steering"):
    pytest.register_assert_rewrite(f"{__name__}.{_part}")

from capturekit.testing.queue_contract.jobs import a_job, a_worker
from capturekit.testing.queue_contract.keys import KeyTests
from capturekit.testing.queue_contract.life import LifeTests
from capturekit.testing.queue_contract.limits import LimitTests
from capturekit.testing.queue_contract.orders import OrderTests
from capturekit.testing.queue_contract.shared import SharedTests
from capturekit.testing.queue_contract.steering import SteeringTests

__all__ = ["QueueContract", "SharedQueueContract", "a_job", "a_worker"]


class QueueContract(LifeTests, KeyTests, LimitTests, OrderTests, SteeringTests):
    """Subclass it, give it ``make_queue``, and pytest runs the rest."""


class SharedQueueContract(SharedTests, QueueContract):
    """For a queue that many processes share: it also wants the methods of ``SharedTests``."""
