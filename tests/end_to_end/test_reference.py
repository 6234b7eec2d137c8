"""The page at ``/docs`` in a real browser, on a real server, with no other network."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import running_browser
from tests.servers import Server, running_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with running_browser(chromium) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    page = browser.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/docs")
    expect(page.get_by_role("status")).to_contain_text("operations")
    yield page
    page.close()
    assert complaints == []
    assert all(url.startswith(server.url) for url in asked)


def test_every_operation_is_there_once(server: Server, page: Page) -> None:
    paths = server.admin.get("/openapi.json").json()["paths"]
    names = [one["operationId"] for path in paths.values() for one in path.values()]

    shown = page.locator(".operation").evaluate_all("all => all.map((one) => one.id)")
    assert sorted(shown) == sorted(names)


def test_an_operation_opens_by_keyboard_and_tells_all(page: Page) -> None:
    page.get_by_label("Filter operations").fill("post movements record")
    expect(page.get_by_role("status")).to_have_text("1 operations")
    page.locator("#record_movement > summary").focus()
    page.keyboard.press("Enter")

    operation = page.locator("#record_movement")
    expect(operation).to_contain_text("Needs a token or a session of the role operator.")
    expect(operation).to_contain_text("Idempotency-Key")
    expect(operation).to_contain_text("may_go_negative")
    expect(operation).to_contain_text("Too many requests.")


def test_a_link_to_an_operation_opens_it(server: Server, page: Page) -> None:
    page.goto(f"{server.url}/docs#list_stock")
    page.reload()
    expect(page.locator("#list_stock[open]")).to_contain_text("as_of")


def test_parts_of_answers_unfold(page: Page) -> None:
    page.locator("#why > summary").click()
    page.locator("#why details > summary", has_text="stock").first.click()
    page.locator("#why details > summary", has_text="basis").first.click()
    expect(page.locator("#why")).to_contain_text("fingerprint")


def test_it_fits_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.locator("#ingest > summary").click()
    overflow = "() => document.documentElement.scrollWidth - window.innerWidth"
    assert page.evaluate(overflow) <= 0
