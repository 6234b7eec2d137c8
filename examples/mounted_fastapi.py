"""The kit inside a FastAPI application: cameras upload to ``/capture/v1/ingest``.

``uvicorn --app-dir examples --timeout-graceful-shutdown 5 mounted_fastapi:app``
"""

from fastapi import FastAPI

from capturekit import CaptureKit
from capturekit.events.kinds import StockChanged, StockLow

kit = CaptureKit()  # settings come from CAPTUREKIT_* variables
app = FastAPI(lifespan=kit.lifespan)
app.mount("/capture", kit.app)


@kit.on("stock.changed")
async def note(event: StockChanged) -> None:
    """Note what changed. It may come twice after a crash: ``event.id`` is the same then."""
    change = event.data
    print(
        f"{change.item_id} in {change.location_id}: {change.before} -> {change.after}", flush=True
    )


@kit.on("stock.low")
def buy(event: StockLow) -> None:
    """Buy more; a plain function runs in a thread, so it may take its time."""
    print(f"buy {event.data.item_id}, {event.data.quantity} left", flush=True)


@app.get("/shelf/{item_id}")
async def shelf(item_id: str) -> dict[str, int]:
    """Answer how much there is, from the ledger."""
    page = await kit.store.inventory.stock(item=item_id)
    return {row.location: row.quantity for row in page.rows}
