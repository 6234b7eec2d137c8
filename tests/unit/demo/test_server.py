"""The demo's server is a real one, on a folder that goes with it."""

import tempfile
from pathlib import Path

import httpx2
import pytest

from capturekit.demo.server import running_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; the test sees that none is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_it_serves_devices_and_leaves_nothing(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the user has set for a server of their own does not reach the demo's.
    monkeypatch.setenv("CAPTUREKIT_ADMIN_TOKEN", "the user's own admin token")
    monkeypatch.setenv("CAPTUREKIT_REDIS_URL", "redis://elsewhere")

    async with running_server(["shelf-1", "shelf-2"], {}) as server:
        headers = {"Authorization": f"Bearer {server.admin_token}"}
        async with httpx2.AsyncClient(base_url=server.base_url, headers=headers) as http:
            stats = await http.get("/v1/admin/stats")
        assert stats.status_code == 200
        assert list(server.device_tokens) == ["shelf-1", "shelf-2"]
        assert server.dashboard_url == f"{server.base_url}/#token={server.admin_token}"
        assert names_in(folders)

    assert not names_in(folders)
    async with httpx2.AsyncClient() as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get(server.base_url)


async def test_it_ends_when_the_block_fails(folders: Path) -> None:
    with pytest.raises(ValueError, match="not a device"):
        async with running_server(["not a device"], {}):
            pass

    assert not names_in(folders)
