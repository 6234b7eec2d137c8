"""One connection to a server, shared by all who ask: answers come in the order of questions.

redis-py connects, authenticates and encrypts; then this takes over the socket. Its clients cost
several times the CPU of a round trip, most of it for a pool, for streams and for one task at a
time on a connection. Here whoever asks writes at once, and the one read that brings several
answers wakes all who asked.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

from capturekit.errors import StorageUnavailable
from capturekit.redisurl import AnyConnection

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

Word: TypeAlias = bytes | str
Reply: TypeAlias = Any
"""As the server typed it: bytes, int, None, a list of these, or Refused."""

INCOMPLETE: Final = object()
"""Instead of an answer of which more is to come."""


class Refused(Exception):  # named for its except
    """The server answered with an error; the first word says which."""


class Lost(StorageUnavailable):
    """The connection broke, or the server did not answer in time."""


class Reader(Protocol):
    """As ``hiredis.Reader``."""

    def feed(self, data: bytes) -> object:
        """More of what the server said."""
        ...

    def gets(self) -> Reply:
        """The next answer, or INCOMPLETE. Raises ValueError for what is none."""
        ...


def packed(words: Sequence[Word]) -> bytes:
    """A command as Redis reads it."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Question:
    """A command that was sent, and who wants the answer."""

    __slots__ = ("answer", "late_at")

    def __init__(self, answer: "asyncio.Future[Reply]", late_at: float) -> None:
        self.answer = answer
        """May be put in the place of one that was cancelled, to get the answer after all."""
        self.late_at = late_at


class Wire(asyncio.Protocol):
    """A connection that is open from the start, until it is closed or breaks.

    ``connection`` is redis-py's, connected. Use it in the event loop that connected it.
    """

    def __init__(self, connection: AnyConnection) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._asked: deque[Question] = deque()
        self._reader: Reader = new_reader()
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = True
        # redis-py's StreamWriter stays alive with the connection: it closes what it forgets.
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._transport.set_protocol(self)

    def ask(self, command: bytes, within_s: float) -> Question:
        """Send a packed command.

        The answer fails with Refused, or with Lost when there is none within so many seconds:
        then the connection is closed, and all who wait for answers fail. A question whose answer
        is cancelled stays sent; what the server says to it is dropped.
        """
        question = Question(self._loop.create_future(), self._loop.time() + within_s)
        if not self.is_open:
            question.answer.set_exception(Lost("the connection is closed"))
            return question
        self._asked.append(question)
        self._transport.write(command)
        if self._timer is None:
            self._timer = self._loop.call_later(within_s, self._watch)
        return question

    def close(self, why: str = "the connection was closed") -> None:
        """Close at once; all who still wait for answers fail with Lost."""
        if not self.is_open:
            return
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._connection._close()  # noqa: SLF001  # without waiting, and without a word
        for question in self._asked:
            if not question.answer.done():
                question.answer.set_exception(Lost(why))
                # Nobody need be there to hear it: a worker that left waits no more.
                question.answer.exception()
        self._asked.clear()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not INCOMPLETE:
                answer = self._asked.popleft().answer
                if answer.done():
                    continue
                if isinstance(reply, Refused):
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
        except (LookupError, ValueError, RuntimeError):
            self.close("the server's answer is not as Redis speaks")

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.close(f"the server closed the connection: {error or 'it ended'}")

    def _watch(self) -> None:
        # Answers come in order, so the oldest question is the first to be late. One timer for
        # all: setting and cancelling one for each would cost more than the rest of a call.
        self._timer = None
        if not self._asked:
            return
        late_at = self._asked[0].late_at
        if late_at <= self._loop.time():
            self.close("the server did not answer in time")
        else:
            self._timer = self._loop.call_at(late_at, self._watch)


def new_reader() -> Reader:
    """The fastest there is."""
    if hiredis is None:
        return PlainReader()
    reader: Reader = hiredis.Reader(
        replyError=Refused, protocolError=ValueError, notEnoughData=INCOMPLETE
    )
    return reader


class PlainReader:
    """What ``hiredis.Reader`` does, where hiredis is not installed."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """See Reader."""
        self._data += data

    def gets(self) -> Reply:
        """See Reader."""
        try:
            reply, end = self._parsed(0)
        except IndexError:
            return INCOMPLETE
        del self._data[:end]
        return reply

    def _parsed(self, at: int) -> tuple[Reply, int]:
        ends = self._data.find(b"\r\n", at)
        if ends < 0:
            raise IndexError
        kind, text, at = self._data[at : at + 1], bytes(self._data[at + 1 : ends]), ends + 2
        if kind == b"+":
            return text, at
        if kind == b"-":
            return Refused(text.decode(errors="replace")), at
        if kind == b":":
            return int(text), at
        if kind == b"$":
            return self._bulk(int(text), at)
        if kind == b"*":
            return self._array(int(text), at)
        raise ValueError("no RESP")

    def _bulk(self, size: int, at: int) -> tuple[Reply, int]:
        if size < 0:
            return None, at
        if len(self._data) < at + size + 2:
            raise IndexError
        return bytes(self._data[at : at + size]), at + size + 2

    def _array(self, size: int, at: int) -> tuple[Reply, int]:
        if size < 0:
            return None, at
        found = []
        for _ in range(size):
            one, at = self._parsed(at)
            found.append(one)
        return found, at
