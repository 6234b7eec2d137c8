"""The dashboard in a real browser, on a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import running_browser
from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, Server, running_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

CODE = "4006381333931"
PASSWORD = "correct horse battery"
NARROW_PX = 360


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        token = server.add_device("pantry")
        server.upload(token, picture(CODE, CODE))
        server.wait_until_processed()
        ana = {"name": "ana", "role": "viewer", "password": PASSWORD}
        assert server.admin.post("/v1/people", json=ana).status_code == 201
        yield server


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with running_browser(chromium) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def test_a_link_with_the_token_shows_stock_and_hides_the_token(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/#token={ADMIN_TOKEN}")
    row = page.locator("#stock tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text(CODE)
    expect(row.locator(".number")).to_have_text("2")
    expect(page.locator("#captures img")).to_have_count(1)
    assert page.locator("#captures img").evaluate("image => image.naturalWidth") > 0
    assert page.url == f"{server.url}/"


def test_one_can_sign_in_and_out_with_the_keyboard_alone(server: Server, page: Page) -> None:
    page.goto(server.url)
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("ana")
    page.keyboard.press("Tab")
    page.keyboard.type("a wrong password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#stock tr")).to_have_count(1)
    expect(page.locator("#who")).to_have_text("ana (viewer)")
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    expect(page.locator("#dashboard")).to_be_hidden()
    assert page.context.cookies() == []


def test_a_session_outlives_a_reload_and_is_kept_from_scripts(server: Server, page: Page) -> None:
    page.goto(server.url)
    page.get_by_label("Name").fill("ana")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#who")).to_have_text("ana (viewer)")

    page.reload()

    expect(page.locator("#stock tr")).to_have_count(1)
    expect(page.locator("#who")).to_have_text("ana (viewer)")
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_a_token_opens_the_page_as_well(server: Server, page: Page) -> None:
    page.goto(server.url)
    page.get_by_text("Use a token instead").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Token", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not, or no longer")
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    page.keyboard.type(ADMIN_TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#stock tr")).to_have_count(1)
    expect(page.locator("#who")).to_have_text("admin (admin)")


def test_signing_in_fits_a_narrow_window(server: Server, page: Page) -> None:
    page.set_viewport_size({"width": NARROW_PX, "height": 700})
    page.goto(server.url)
    expect(page.get_by_label("Name")).to_be_visible()
    page.get_by_text("Use a token instead").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW_PX


def test_the_filter_finds_by_place(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/#token={ADMIN_TOKEN}")
    expect(page.locator("#stock tr")).to_have_count(1)
    page.get_by_label("Filter stock").fill("garage")
    expect(page.locator("#stock tr")).to_have_count(0)
    page.get_by_label("Filter stock").fill("PANT")
    expect(page.locator("#stock tr")).to_have_count(1)


def test_a_narrow_window_needs_no_sideways_scrolling(server: Server, page: Page) -> None:
    page.set_viewport_size({"width": NARROW_PX, "height": 700})
    page.goto(f"{server.url}/#token={ADMIN_TOKEN}")
    expect(page.locator("#stock tr")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW_PX
