"""Limits around an existing FastAPI application; nothing else of capturekit is used.

``uvicorn --app-dir examples limit_requests:app``, then ask more than five times a minute.
"""

from fastapi import FastAPI

from capturekit import RateLimitMiddleware

app = FastAPI()
app.add_middleware(
    RateLimitMiddleware,
    limits={
        "GET /reports/{id}": "5/minute",  # of each address, all ids together
        "*": "600/minute",  # unknown paths included
    },
)


@app.get("/reports/{id}")
async def report(id: str) -> dict[str, str]:  # the path names it so
    """Answer a report."""
    return {"report": id}
