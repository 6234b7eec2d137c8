"""A typed client of the HTTP API, sync and async.

What can be asked is made by the functions of ``capturekit.client.calls``; a client asks it.
"""

from capturekit.client.asking import AsyncClient, Client, NoAnswer, Refused
from capturekit.client.calls import Call

__all__ = ["AsyncClient", "Call", "Client", "NoAnswer", "Refused"]
