"""A real browser without a screen, for the pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

FLAGS = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


@contextmanager
def running_browser(chromium: Path, *flags: str) -> Iterator[Browser]:
    """Chromium, closed at the end."""
    with sync_playwright() as playwright:
        # A container seldom lets it make its sandbox.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*FLAGS, *flags], chromium_sandbox=False
        )
        yield browser
        browser.close()
