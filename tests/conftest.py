"""What every test shares: the async backend, and which tests an installation can run."""

import ast
import importlib
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers_postgres import PostgresServer, running_postgres

SKIPS_ALLOWED = ("browser", "small_disk")
"""Markers of the only tests that may be skipped: they need what pip cannot install."""

LEFT_OUT = pytest.StashKey[list[str]]()
SKIPPED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def chromium() -> Path:
    """An installed Chromium; without one the test is skipped, on CI it fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    if os.environ.get("CI") == "true":
        pytest.fail("CI must have Chromium: apt-get install chromium")
    pytest.skip("no Chromium on this machine")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server for this run of the tests; each test makes its own database in it."""
    with running_postgres() as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("capturekit")
    group.addoption(
        "--bare", action="store_true", help="leave out test files whose imports need an extra"
    )
    group.addoption(
        "--no-skips",
        action="store_true",
        help=f"a skip fails the run, except of {', '.join(SKIPS_ALLOWED)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    # On CI the same examples every time; at a developer's desk new ones.
    # Nothing is asserted of time: machines are shared.
    settings.register_profile("desk", deadline=None)
    settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None)
    settings.load_profile("desk")
    if os.environ.get("CI") == "true":
        settings.load_profile("ci")
    config.stash[LEFT_OUT] = []
    config.stash[SKIPPED] = []
    config.pluginmanager.register(_Skips(config), "capturekit-skips")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--bare"):
        return None
    # A folder is imported by its conftest.py.
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if not file.is_file() or not (file.match("test_*.py") or file.name == "conftest.py"):
        return None
    missing = _missing_library(file)
    if missing is None:
        return None
    config.stash[LEFT_OUT].append(f"{collection_path.name} (needs {missing})")
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--bare"):
        needy = [item for item in items if item.get_closest_marker("needs_extra")]
        items[:] = [item for item in items if item not in needy]
        config.hook.pytest_deselected(items=needy)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # Test processes send reports as UTF-8; what a test logs may hold lone surrogates.
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if left_out := config.stash[LEFT_OUT]:
        terminalreporter.write_line(f"left out: {', '.join(sorted(set(left_out)))}")
    if config.getoption("--no-skips") and (skipped := config.stash[SKIPPED]):
        terminalreporter.write_line(f"skipped, but must run: {', '.join(skipped)}", red=True)


class _Skips:
    """Counts skips, and fails the run for them under ``--no-skips``."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        is_expected_failure = hasattr(report, "wasxfail")
        if (
            report.skipped
            and not is_expected_failure
            and not set(SKIPS_ALLOWED) & set(report.keywords)
        ):
            self._config.stash[SKIPPED].append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._config.stash[SKIPPED].append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._config.getoption("--no-skips") and self._config.stash[SKIPPED]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _missing_library(path: Path) -> str | None:
    """The library without which the test file cannot be imported; None when it can."""
    for module in _imports(path):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return error.name or str(error)
    return None


def _imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found
