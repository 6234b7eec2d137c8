"""Makes docs/images/dashboard.png from the demo, with an installed Chromium.

Usage: python docs/screenshot.py
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGE = Path(__file__).parent / "images" / "dashboard.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DEMO = ("-m", "capturekit", "demo", "--headless", "--seconds", "30")
SETTLE_MS = 12_000
"""By then every camera of the demo has uploaded more than once."""
FLAGS = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


def main() -> int:
    """Start the demo, photograph its dashboard, stop it."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print("needs Chromium: apt-get install chromium", file=sys.stderr)
        return 1
    demo = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, *DEMO], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        photograph(browser, dashboard_url(demo))
    finally:
        demo.terminate()
        demo.communicate()
    print(IMAGE)
    return 0


def dashboard_url(demo: "subprocess.Popen[str]") -> str:
    """The address that the demo prints when it is ready."""
    for line in demo.stderr or ():
        if found := re.search(r"dashboard is at (\S+)", line):
            return found[1]
    sys.exit("the demo ended before its dashboard was there")


def photograph(browser: str, url: str) -> None:
    """Write the image once stock is on the page."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=FLAGS, chromium_sandbox=False
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 800}, device_scale_factor=1)
        page.goto(url)
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=IMAGE)
        chromium.close()


if __name__ == "__main__":
    sys.exit(main())
