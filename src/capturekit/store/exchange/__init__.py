"""Items, codes, places, par levels and counts, to and from files.

A file is taken whole or not at all, and taking it twice changes nothing. What is exported,
imported elsewhere and exported again is the same.
"""

from capturekit.store.exchange.apply import (
    DryRun,
    ImportOrder,
    ImportReport,
    apply,
    read_catalogue,
)
from capturekit.store.exchange.catalogue import MAX_IMPORT_BYTES, Catalogue, ExchangeFormat
from capturekit.store.exchange.forms import parse, written

__all__ = [
    "MAX_IMPORT_BYTES",
    "Catalogue",
    "DryRun",
    "ExchangeFormat",
    "ImportOrder",
    "ImportReport",
    "apply",
    "parse",
    "read_catalogue",
    "written",
]
