"""A catalogue from bytes and to bytes, in the form that is asked for."""

from capturekit.errors import ImportRefused
from capturekit.store.exchange import document, sheet
from capturekit.store.exchange.catalogue import MAX_IMPORT_BYTES, Catalogue, ExchangeFormat, Faults


def parse(content: bytes, form: ExchangeFormat) -> Catalogue:
    """What the file says. Raises ImportRefused with all that is wrong with it."""
    faults = Faults()
    if len(content) > MAX_IMPORT_BYTES:
        faults.add(
            1, "", "", f"the file has {len(content):,} bytes, over {MAX_IMPORT_BYTES:,}: split it"
        )
        raise ImportRefused(faults)
    reads = {ExchangeFormat.CSV: sheet.parse, ExchangeFormat.JSON: document.parse}
    catalogue = reads[form](content, faults)
    if faults:
        raise ImportRefused(faults)
    return catalogue


def written(catalogue: Catalogue, form: ExchangeFormat) -> bytes:
    """The catalogue as a file."""
    writes = {ExchangeFormat.CSV: sheet.written, ExchangeFormat.JSON: document.written}
    return writes[form](catalogue)
