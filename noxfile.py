"""Every check of the repository: `nox` runs the default ones, `nox -s NAME` one of them.

All sessions use the Python that runs nox. Arguments after `--` go to pytest or the script.
"""

import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
SERVER_LIBRARIES = ("sqlalchemy", "starlette", "uvicorn", "alembic")
EXTRAS = "server,redis,postgres,s3,heic,onnx,vision,mqtt,otel"
"""Those that any test needs."""
TESTED = f".[{EXTRAS}]"

PAGES = "tests/unit/test_docs.py"
"""What the pages show is run by `docs`."""
PROVED_ELSEWHERE = (
    PAGES,
    "tests/unit/picture/test_hostile.py",
    "tests/unit/queue",
    "tests/unit/store/test_ledger_stateful.py",
)
"""Long tests of what does not depend on how it was installed, nor on versions: a contract suite
runs over the same queues."""

INSTALLED = (
    "tests/unit/cli",
    "tests/unit/demo",
    "tests/unit/web",
    "tests/unit/test_imports.py",
    "tests/unit/test_kit.py",
    "tests/unit/store/test_migrations.py",
)
"""Tests of what a wheel could lack: commands, pages, migrations, entry points."""

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests", "tests_bare", "lowest", "wheel", "docs"]


def install(session: nox.Session, *what: str, groups: tuple[str, ...] = ()) -> None:
    """Install what is named and the dependency groups, in one resolution."""
    session.install(*what, *nox.project.dependency_groups(PYPROJECT, *groups))


@nox.session
def lint(session: nox.Session) -> None:
    """Rules, layout, and who may import whom."""
    install(session, groups=("lint",))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over src, tests and this file."""
    install(session, "-e", TESTED, groups=("types", "browser"))
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Every test, end to end included, with branch coverage. A skip is a failure."""
    install(session, "-e", TESTED, groups=("tests", "frameworks", "browser"))
    session.env["COVERAGE_FILE"] = str(ROOT / ".coverage")
    session.run("coverage", "erase")
    run = ("coverage", "run", "-m", "pytest", "--no-skips", "-n", "2", f"--ignore={PAGES}")
    session.run(*run, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def tests_bare(session: nox.Session) -> None:
    """What the base installation offers, without any extra."""
    install(session, "-e", ".", groups=("tests",))
    session.run(
        "python",
        "-c",
        "from importlib.util import find_spec\n"
        f"extra = [name for name in {SERVER_LIBRARIES!r} if find_spec(name)]\n"
        "assert not extra, f'not a bare environment: {extra}'",
    )
    session.run("pytest", "-n", "2", "--bare", "tests/unit", "tests/contract", *session.posargs)


@nox.session
def tests_all(session: nox.Session) -> None:
    """All extras get on with each other."""
    install(session, "-e", ".[all]", groups=("tests", "frameworks"))
    if session.venv_backend == "uv":
        session.run("uv", "pip", "check")
    else:
        session.run("python", "-m", "pip", "check")
    session.run(
        "python",
        "-c",
        "import aiomqtt, httpx2, obstore, onnxruntime, opentelemetry.sdk, pillow_heif, psycopg, "
        "psycopg_pool, redis, sqlalchemy, starlette, taskiq, taskiq_redis, uvicorn",
    )
    session.run("pytest", "tests/unit", "tests/contract", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The lower bounds in pyproject.toml are true. Only on Python 3.11, as they are its."""
    if session.venv_backend != "uv" or sys.version_info[:2] != (3, 11):
        session.skip("needs uv, and Python 3.11")
    groups = ("tests", "frameworks")
    install(session, "--resolution", "lowest-direct", "-e", TESTED, groups=groups)
    folders = ("tests/unit", "tests/contract")
    ignored = [f"--ignore={path}" for path in PROVED_ELSEWHERE]
    session.run("pytest", "-n", "2", *folders, *ignored, *session.posargs)


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """The built wheel, in a fresh environment: the command, the demo, what a wheel could lack."""
    # In the environment's folder, which is made anew for every run.
    built = Path(session.virtualenv.location).absolute() / "dist"
    if session.venv_backend == "uv":
        session.run("uv", "build", "--quiet", "--wheel", "--out-dir", str(built))
    else:
        session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(built), ".")
    (file,) = built.glob("*.whl")
    session.install(f"capturekit[server] @ {file.as_uri()}")
    with session.chdir(built):
        session.run("capturekit", "--help", silent=True)
        session.run("capturekit", "demo", "--seconds", "5", "--headless", "--json")
    groups = ("tests", "frameworks")
    install(session, f"capturekit[{EXTRAS}] @ {file.as_uri()}", groups=groups)
    session.run("pytest", "-n", "2", *INSTALLED, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages, with warnings as errors, and run what they show."""
    install(session, "-e", TESTED, groups=("docs", "tests"))
    # An advertisement against mkdocs 2 would look like a problem of ours.
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", "site")
    session.run("pytest", "--no-skips", "tests/unit/test_docs.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark, one after the other, each with its table."""
    install(session, "-e", TESTED, groups=("tests", "frameworks", "peers"))
    session.env["PYTHONPATH"] = str(ROOT)
    session.env["PYTHON_ARQ"] = arq_environment(session)
    for file in sorted((ROOT / "tests" / "benchmarks").glob("bench_*.py")):
        session.run("python", str(file), *session.posargs)


@nox.session
def bench_peers(session: nox.Session) -> None:
    """The queue in Redis beside celery, arq and others; a part of `bench`."""
    install(session, "-e", TESTED, groups=("tests", "peers"))
    session.env["PYTHONPATH"] = str(ROOT)
    session.env["PYTHON_ARQ"] = arq_environment(session)
    session.run("python", "tests/benchmarks/bench_queue_peers.py", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill at each named point, fill the disk at each write, and then kill at random.

    In between 10,000 pictures arrive in any order, and 10,000 malformed uploads.
    `-- --kills 1000 --backend redis` go to the last part.
    """
    install(session, "-e", TESTED, groups=("tests",))
    session.env["PYTHONPATH"] = str(ROOT)
    long_forms = {
        "CAPTUREKIT_TEST_ALL_POINTS": "1",
        "CAPTUREKIT_TEST_PAGES_LEFT": "0 120 1",
        "CAPTUREKIT_TEST_ARRIVALS": "10000",
        "CAPTUREKIT_TEST_MALFORMED": "10000",
    }
    tests = (
        "tests/faults/test_named_kills.py",
        "tests/end_to_end/test_storage_faults.py",
        "tests/unit/store/test_arrival.py",
        "tests/end_to_end/test_malformed.py",
    )
    session.run("pytest", "-s", *tests, env=long_forms)
    session.run("python", "-m", "tests.faults.killing", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Steady mixed load for an hour, and what grows meanwhile; `-- --minutes 5` for less."""
    install(session, "-e", TESTED, groups=("tests",))
    session.run("python", "-m", "tests.soak", *session.posargs)


def arq_environment(session: nox.Session) -> str:
    """The Python of an environment with arq, which does not go with our redis-py."""
    folder = Path(session.virtualenv.location).absolute() / "arq"
    python = folder / "bin" / "python"
    if not python.exists():
        session.run_install("python", "-m", "venv", str(folder))
        session.run_install(
            str(python), "-m", "pip", "install", "--quiet", "arq>=0.28", external=True
        )
    return str(python)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Mutate real pictures, 60 s a parser; `-- --seconds 5 jpeg png` for less."""
    install(session, "-e", ".[heic]", groups=("tests",))
    session.run("python", "tests/fuzz/fuzz_pictures.py", *session.posargs)


@nox.session
def fuzz_api(session: nox.Session) -> None:
    """Ask the HTTP API 200 things an operation, as an admin, a device and nobody."""
    install(session, "-e", TESTED, groups=("tests",))
    test = "tests/end_to_end/test_contract_fuzz.py"
    session.run("pytest", test, *session.posargs, env={"CAPTUREKIT_FUZZ_EXAMPLES": "200"})


@nox.session
def screenshot(session: nox.Session) -> None:
    """Make docs/images/dashboard.png from the demo, with an installed Chromium."""
    install(session, "-e", ".[server]", groups=("browser",))
    session.run("python", "docs/screenshot.py", *session.posargs)
