"""taskiq on any of our queues: ``taskiq worker`` runs their jobs, ``task.kiq()`` submits them.

Nothing here derives from taskiq-redis: its lists and streams know no priorities, turns or
delays, and an acknowledgement says that a message was seen where a queue must learn how a
job ended. So jobs stay in a ``QueueBackend``, and this broker only speaks taskiq's interface.

**A job is a task.** Its kind is the task's name, its id the task's id and its payload the
keyword arguments. What else a taskiq message has is in one more key of the payload, which is
left out when there is nothing: ``"_taskiq": {"args": [...], "labels": {...}, "labels_types":
{...}}``. All of it is JSON, whatever taskiq's serializer makes of it on its way to a task.

**The result ends the job,** not the acknowledgement: taskiq's ack types change nothing. For a
task that must not run twice, set the label ``max_attempts=1``.
"""

from capturekit.queue.broker.answers import Delivery
from capturekit.queue.broker.broker import QueueBroker
from capturekit.queue.broker.hands import current_delivery

__all__ = ["Delivery", "QueueBroker", "current_delivery"]
