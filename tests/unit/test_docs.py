"""The pages of the documentation run, and name everything there is.

A comment before a block says how it runs: `<!-- runs: no -->`, `<!-- runs: until "text" -->`
(again and again, until it prints the text), `<!-- runs: background until "text" -->`.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("tutorial/*.md")), *sorted(DOCS.glob("how-to/*.md"))]

BLOCK = re.compile(
    r'(?:<!-- runs: (?P<how>no|(?:background )?until) ?(?:"(?P<text>[^"]*)")? -->\n)?'
    r'^```(?P<language>python|bash)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
PORT_IN_DOCS = "8000"
PATIENCE_S = 30.0
"""A machine under load starts a server in 5 s."""


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    title: str
    code: str
    how: str
    text: str

    def command(self, folder: Path) -> list[str]:
        file = folder / self.title
        file.write_text(self.code)
        if self.language == "bash":
            return ["bash", "-euo", "pipefail", str(file)]
        return [sys.executable, "-W", "error", str(file)]


def blocks_of(page: Path) -> list[Block]:
    found = []
    for number, match in enumerate(BLOCK.finditer(page.read_text())):
        language, how = match["language"], match["how"] or ""
        is_for_people = language == "bash" and (page.name == "README.md" or installs(match["code"]))
        title = match["title"] or f"block-{number}.{'py' if language == 'python' else 'sh'}"
        if how != "no" and not is_for_people:
            found.append(Block(language, title, match["code"], how, match["text"] or ""))
    return found


def installs(code: str) -> bool:
    return all(line.startswith("pip install") for line in code.splitlines())


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def environment() -> dict[str, str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("CAPTUREKIT_")}
    return ours | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(block: Block, folder: Path) -> str:
    done = subprocess.run(
        block.command(folder),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"{block.title}: {done.stderr}"
    return done.stdout


def run_until(block: Block, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while block.text not in (printed := run(block, folder)):
        assert time.monotonic() < deadline, f"{block.title} never printed {block.text}: {printed}"


@contextmanager
def running(block: Block, folder: Path) -> Iterator[None]:
    process = subprocess.Popen(
        block.command(folder),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if block.text in line:
                break
        else:
            pytest.fail(f"{block.title} never printed {block.text}: {''.join(seen)}")
        yield
    finally:
        os.killpg(process.pid, 15)
        process.communicate(timeout=PATIENCE_S)


@pytest.mark.needs_extra("server")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as servers:
        for block in blocks_of(page):
            here = Block(
                block.language,
                block.title,
                block.code.replace(PORT_IN_DOCS, port),
                block.how,
                block.text,
            )
            if block.how.startswith("background"):
                servers.enter_context(running(here, tmp_path))
            elif block.how == "until":
                run_until(here, tmp_path)
            else:
                run(here, tmp_path)


def test_the_tutorial_runs_most_of_its_blocks() -> None:
    assert len(blocks_of(DOCS / "tutorial" / "first-stock.md")) >= 7


@pytest.mark.needs_extra("server")
def test_every_command_and_setting_is_documented() -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs_extra("server")
def test_every_route_is_documented() -> None:
    from capturekit.web.routes import ROUTES

    documented = set(re.findall(r"`([A-Z]+ /[^`]*)`", (DOCS / "reference" / "http.md").read_text()))
    routes = {f"{one.method} {one.template}" for one in ROUTES}

    assert documented == routes


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))

    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_every_public_module_has_its_reference() -> None:
    documented = set(
        re.findall(
            r"^::: (\S+)",
            "".join(page.read_text() for page in (DOCS / "reference" / "api").glob("*.md")),
            re.MULTILINE,
        )
    )
    public = set(
        re.findall(
            r'"(capturekit\.[a-z.]+)": \(', (ROOT / "src/capturekit/__init__.py").read_text()
        )
    )

    assert public <= documented | {"capturekit.settings"}


def test_the_changelog_has_the_version() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/capturekit/__init__.py").read_text())

    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()
