"""What `import capturekit` costs, and what works without the extras."""

import json
import subprocess
import sys

import pytest

import capturekit

HEAVY = (
    "PIL",
    "aiomqtt",
    "alembic",
    "anyio",
    "click",
    "cv2",
    "httpx2",
    "jinja2",
    "limits",
    "numpy",
    "obstore",
    "onnxruntime",
    "psycopg",
    "pydantic",
    "pydantic_settings",
    "redis",
    "rich",
    "simplejpeg",
    "sqlalchemy",
    "starlette",
    "taskiq",
    "uvicorn",
    "zxingcpp",
)

EXTRAS = (
    "aiomqtt",
    "alembic",
    "httptools",
    "httpx2",
    "jinja2",
    "multipart",
    "obstore",
    "onnxruntime",
    "psycopg",
    "python_multipart",
    "redis",
    "sqlalchemy",
    "starlette",
    "taskiq",
    "taskiq_redis",
    "uvicorn",
    "uvloop",
)

BASE = (
    "capturekit.blobs",
    "capturekit.cli.main",
    "capturekit.errors",
    "capturekit.frame",
    "capturekit.pipeline",
    "capturekit.queue.base",
    "capturekit.queue.memory",
    "capturekit.ratelimit",
    "capturekit.settings",
    "capturekit.steps",
    "capturekit.worker",
)
"""What the base installation promises to offer."""

IMPORT_TIME_ROUNDS = 5


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def import_time_s(statement: str) -> float:
    return float(
        run_python(
            "import time; start = time.perf_counter()\n"
            f"{statement}\n"
            "print(time.perf_counter() - start)"
        )
    )


def test_importing_the_package_loads_no_heavy_library() -> None:
    loaded = json.loads(
        run_python(
            f"import capturekit, json, sys; print(json.dumps([m for m in {HEAVY!r} "
            "if m in sys.modules]))"
        )
    )

    assert loaded == []


def test_importing_the_package_costs_less_than_pydantic_and_numpy() -> None:
    ours, theirs = [], []
    for _ in range(IMPORT_TIME_ROUNDS):
        ours.append(import_time_s("import capturekit"))
        theirs.append(import_time_s("import pydantic, numpy"))

    assert min(ours) < min(theirs)


@pytest.mark.needs_extra("server")
@pytest.mark.parametrize("name", capturekit.__all__)
def test_every_public_name_is_found_where_it_lives(name: str) -> None:
    assert getattr(capturekit, name) is not None
    assert name in dir(capturekit)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        capturekit.Nonsense  # noqa: B018 - the access itself is under test


@pytest.mark.parametrize("module", BASE)
def test_the_base_installation_needs_no_extra_for(module: str) -> None:
    run_python(f"import sys\nfor name in {EXTRAS!r}: sys.modules[name] = None\nimport {module}")


def test_a_name_that_needs_an_extra_says_which() -> None:
    message = run_python(
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "import capturekit\n"
        "try: capturekit.SqlQueue\n"
        "except capturekit.CaptureKitError as error: print(error)"
    )

    assert message.strip() == "capturekit.SqlQueue needs: pip install 'capturekit[server]'"


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "capturekit", "--help"], capture_output=True, text=True, check=True
    )

    assert "demo" in done.stdout
