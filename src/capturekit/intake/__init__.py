"""Ways in besides uploads: watched folders, cameras that are asked. All end in ``kit.receive``."""

from capturekit.intake.folder import Done, WatchedFolder

__all__ = ["Done", "WatchedFolder"]
