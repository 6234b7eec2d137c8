"""A new camera fetches its token with a short code that a person shows it."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import httpx2
import numpy as np
import pytest
import zxingcpp
from numpy.typing import NDArray
from PIL import Image

from tests.made_pictures import picture
from tests.servers import Server, run_cli, running_server

CODE = "4006381333931"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("claims")) as server:
        yield server


def offer(server: Server, **fields: object) -> dict[str, str]:
    answer = server.admin.post("/v1/devices/claims", json=fields)
    assert answer.status_code == 201, answer.text
    told: dict[str, str] = answer.json()
    return told


def use(server: Server, code: str, **fields: str) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/claim", json={"code": code, **fields}, timeout=20)


def test_a_camera_claims_its_token_and_uploads(server: Server) -> None:
    offered = offer(server, device_id="cellar", name="Cellar, left")
    assert "token" not in offered
    claimed = use(server, offered["code"])
    assert claimed.status_code == 201
    assert (claimed.json()["id"], claimed.json()["name"]) == ("cellar", "Cellar, left")
    assert server.upload(claimed.json()["token"], picture(CODE)).status_code == 200
    shown = server.admin.get(f"/v1/devices/claims/{offered['claim_id']}").json()
    assert shown["used_at"] is not None
    assert "code" not in shown


def test_of_twenty_at_once_one_has_the_token(server: Server) -> None:
    code = offer(server)["code"]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda n: use(server, code, name=f"race-{n}"), range(20)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] + [403] * 19
    found = server.admin.get("/v1/devices", params={"q": "race-"}).json()["devices"]
    assert len(found) == 1


def test_wrong_and_used_codes_are_answered_alike(server: Server) -> None:
    used = offer(server)["code"]
    use(server, used, name="first")
    told = []
    for code in (used, "7H2K-9MQX", "x"):
        answer = use(server, code, name="second")
        own = ("id", "instance")
        told.append({name: value for name, value in answer.json().items() if name not in own})
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
            403,
            "claim-refused",
        )
    assert told[0] == told[1] == told[2]
    assert use(server, used, name="not an id").status_code == 422


def test_tries_are_limited_by_address(tmp_path: Path) -> None:
    with running_server(tmp_path, CAPTUREKIT_RATE_LIMITS="claim=3/minute") as server:
        answers = [use(server, "7H2K-9MQX") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [403, 403, 403, 429]
    assert int(answers[-1].headers["retry-after"]) > 0


def test_only_an_admin_offers(server: Server) -> None:
    assert httpx2.post(f"{server.url}/v1/devices/claims", json={}, timeout=20).status_code == 401
    claim = offer(server)
    path = f"/v1/devices/claims/{claim['claim_id']}"
    assert httpx2.get(f"{server.url}{path}/qr.svg", timeout=20).status_code == 401
    assert httpx2.get(server.url + path, timeout=20).status_code == 401


def test_the_qr_code_has_the_code_and_the_address(server: Server) -> None:
    offered = offer(server, device_id="drawn")
    drawn = server.admin.get(offered["qr"])
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    text = read(pixels_of_svg(drawn.text))
    assert text == offered["url"]
    asked = parse_qs(urlsplit(text).query)
    assert asked == {"code": [offered["code"]], "server": [server.url]}
    token = use(server, offered["code"]).json()["token"]
    assert token not in drawn.text
    assert server.admin.get(offered["qr"]).status_code == 409


def test_a_terminal_shows_a_code_that_a_camera_reads(server: Server) -> None:
    printed = run_cli(server.data, "devices", "add", "shown", "--server", server.url, "--qr")
    assert "ck_device" not in printed
    blocks = [line for line in printed.splitlines() if set(line) <= set("█▀▄ ") and line]
    asked = parse_qs(urlsplit(read(pixels_of_blocks(blocks))).query)
    assert asked["server"] == [server.url]
    assert use(server, asked["code"][0]).json()["id"] == "shown"


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_qr_code_is_written_to_a_file(server: Server, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"code.{suffix}"
    arguments = ("devices", "add", f"filed-{suffix}", "--qr", str(file), "--json")
    told = json.loads(run_cli(server.data, *arguments))
    pixels = pixels_of_svg(file.read_text()) if suffix == "svg" else pixels_of_png(file)
    assert read(pixels) == told["url"]
    assert use(server, told["code"]).json()["id"] == f"filed-{suffix}"


def read(modules: NDArray[np.uint8]) -> str:
    """What a camera reads of a QR code, a pixel a module."""
    found = zxingcpp.read_barcodes(np.kron(modules, np.ones((6, 6), np.uint8)))
    assert [str(one.format) for one in found] == ["QR Code"]
    return found[0].text


def pixels_of_svg(text: str) -> NDArray[np.uint8]:
    """The modules of a drawing of horizontal lines, one a row."""
    root = ET.fromstring(text)
    scale = int(re.findall(r"scale\((\d+)\)", text)[0])
    side = int(root.attrib["width"]) // scale
    pixels = np.full((side, side), 255, np.uint8)
    lines = root.findall(".//{*}path")[-1].attrib["d"]
    x = y = 0.0
    for verb, values in re.findall(r"([Mmh])([^Mmh]+)", lines):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", values)]
        if verb == "h":
            pixels[int(y), int(x) : int(x + numbers[0])] = 0
            x += numbers[0]
        else:
            x, y = (numbers[0], numbers[1]) if verb == "M" else (x + numbers[0], y + numbers[1])
    return pixels


def pixels_of_blocks(lines: list[str]) -> NDArray[np.uint8]:
    """The modules of half blocks as a dark terminal shows them: two rows a line, blocks light."""
    upper = [[255 if block in "█▀" else 0 for block in line] for line in lines]
    lower = [[255 if block in "█▄" else 0 for block in line] for line in lines]
    rows = [row for pair in zip(upper, lower, strict=True) for row in pair]
    return np.array(rows, np.uint8)


def pixels_of_png(file: Path) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(file).convert("L"))
    return pixels[::8, ::8].copy()
