"""Which request, capture and job a log line is about, and the two ways to write it.

The library logs by the standard ``logging`` and configures nothing; the command line does. An
application that hosts the kit adds ``Ids`` to its own handler to have the ids in its lines.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

_ids: Final[ContextVar[Mapping[str, str]]] = ContextVar("capturekit_ids")


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Give every line that is logged inside these ids, such as ``job``; in threads, too."""
    token = _ids.set({**_ids.get({}), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


class Ids(logging.Filter):
    """Passes every record, with ``ids``: a dictionary, and ``about``: the same as text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what the line is about."""
        record.ids = ids = _ids.get({})
        said = record.getMessage()
        told = (f" {name}={id_}" for name, id_ in ids.items() if id_ not in said)
        record.about = "".join(told)
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, ids, ``exception``.

    Also what a line carries as ``fields``: of a request its method, path, status and so on.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "ids", {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def handler(*, is_json: bool) -> logging.Handler:
    """One that writes to standard error."""
    made = logging.StreamHandler()
    made.addFilter(Ids())
    plain = "%(asctime)s %(levelname)s %(name)s %(message)s%(about)s"
    made.setFormatter(JsonLines() if is_json else logging.Formatter(plain))
    return made
