"""All the ways in that the settings name, run side by side in a server."""

import anyio

from capturekit.intake.folder import ANY_DEVICE, Done, WatchedFolder
from capturekit.kit import CaptureKit


async def run_intake(kit: CaptureKit) -> None:
    """Take what comes until it is cancelled; none of them fails the others."""
    settings = kit.settings
    async with anyio.create_task_group() as tasks:
        for device, folder in settings.watch.items():
            watched = WatchedFolder(
                folder,
                kit.receive,
                device=None if device == ANY_DEVICE else device,
                done=Done(settings.watch_done),
                max_bytes=settings.max_upload_bytes,
            )
            tasks.start_soon(watched.run)
