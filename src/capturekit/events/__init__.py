"""Tells other systems what happened: webhooks, and MQTT with Home Assistant's discovery.

Events are written to the outbox in the transaction of what they tell, and told from there: at
least once, in order, each with an id by which a receiver knows one that comes again. Receivers
check a webhook's signature with ``verify``, for which nothing but the base is needed.
"""

from capturekit.events.signature import sign, verify

__all__ = ["sign", "verify"]
