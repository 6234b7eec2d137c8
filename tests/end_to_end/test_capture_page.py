"""The page that makes a phone a camera, in a real browser with a fake camera, on a real server."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.browsers import running_browser
from tests.made_pictures import picture
from tests.servers import Server, running_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

FLAGS = (
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
CODE = "4006381333931"
NARROW_PX = 320
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.add_device("phone")


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with running_browser(chromium, *FLAGS) as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": NARROW_PX, "height": 700}) as context:
        context.set_default_timeout(WAIT_MS)
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    # A breach of the policy for content is told there.
    page.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    yield page
    page.close()
    assert complaints == []


def test_a_link_with_the_token_takes_a_picture_with_the_camera(
    server: Server, token: str, page: Page
) -> None:
    before = len(server.captures())
    page.goto(f"{server.url}/capture#token={token}")
    shutter = page.get_by_role("button", name="Take a picture")
    expect(shutter).to_be_focused(timeout=WAIT_MS)
    page.keyboard.press("Enter")
    expect(page.locator("#pictures p")).to_have_text(["stored"], timeout=WAIT_MS)
    assert page.url == f"{server.url}/capture"
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW_PX
    assert page.locator("#pictures img").evaluate("image => image.naturalWidth") > 0
    captures = server.captures()
    assert len(captures) == before + 1
    assert (captures[0]["device_id"], captures[0]["trigger_type"]) == ("phone", "phone")
    assert token not in "".join(server.log)


def test_a_token_can_be_typed_and_a_wrong_one_costs_no_picture(
    server: Server, token: str, page: Page
) -> None:
    page.goto(f"{server.url}/capture")
    expect(page.get_by_label("Device token")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Take a picture").click()
    expect(page.get_by_role("alert")).to_contain_text("token", timeout=WAIT_MS)
    page.get_by_label("Device token").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator("#pictures p")).to_have_text(["stored"], timeout=WAIT_MS)
    page.reload()
    expect(page.get_by_role("button", name="Take a picture")).to_be_visible(timeout=WAIT_MS)
    page.get_by_role("button", name="Forget the token").click()
    page.reload()
    expect(page.get_by_label("Device token")).to_be_visible()


def test_a_picture_may_be_chosen_and_a_bad_one_is_told(
    server: Server, token: str, page: Page
) -> None:
    page.goto(f"{server.url}/capture#token={token}")
    files = page.locator("#file")
    files.set_input_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture(CODE)})
    expect(page.locator("#pictures p")).to_have_text(["stored"], timeout=WAIT_MS)
    files.set_input_files({"name": "b.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    expect(page.locator("#pictures p").first).to_contain_text("refused:", timeout=WAIT_MS)


def test_pictures_wait_while_there_is_no_network_and_are_stored_once(
    server: Server, token: str, context: BrowserContext, page: Page
) -> None:
    page.goto(f"{server.url}/capture#token={token}")
    shutter = page.get_by_role("button", name="Take a picture")
    expect(shutter).to_be_visible(timeout=WAIT_MS)
    before = len(server.captures())
    context.set_offline(True)
    for _ in range(2):
        shutter.click()
    expect(page.locator("#connection")).to_have_text("2 pictures wait", timeout=WAIT_MS)
    context.set_offline(False)
    expect(page.locator("#pictures .is-stored")).to_have_count(2, timeout=60_000)
    assert len(server.captures()) == before + 2


def test_an_answer_that_is_lost_does_not_store_twice(
    server: Server, token: str, page: Page
) -> None:
    lost = threading.Event()

    def lose_the_first(route: Route) -> None:
        if lost.is_set():
            route.continue_()
            return
        lost.set()
        # The server has it, and the page never hears so.
        route.fetch()
        route.abort()

    page.route("**/v1/ingest", lose_the_first)
    page.goto(f"{server.url}/capture#token={token}")
    before = len(server.captures())
    page.get_by_role("button", name="Take a picture").click()
    expect(page.locator("#pictures p")).to_have_text(["stored before"], timeout=60_000)
    assert len(server.captures()) == before + 1


def test_without_a_camera_a_file_can_be_chosen(server: Server, token: str, page: Page) -> None:
    page.add_init_script("delete Navigator.prototype.mediaDevices")
    page.goto(f"{server.url}/capture#token={token}")
    expect(page.locator("#no-camera")).to_contain_text("over HTTPS only")
    expect(page.get_by_role("button", name="Take a picture")).to_be_hidden()
    page.locator("#file").set_input_files(
        {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture(CODE)}
    )
    expect(page.locator("#pictures p")).to_have_text(["stored"], timeout=WAIT_MS)
