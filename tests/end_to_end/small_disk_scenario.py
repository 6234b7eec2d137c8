"""Runs in a mount namespace of its own: a server on a disk of 24 MiB that fills up.

Prints what it saw as one JSON object. Started by ``test_storage_faults.py``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.made_pictures import picture
from tests.servers import DidNotStartError, Server, running_server

CODE = "4006381333931"


def main(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    data = folder / "data"
    with running_server(data) as server:
        token = server.add_device("camera")
        seen: dict[str, object] = {"before": server.upload(token, picture(CODE)).status_code}
        server.wait_until_processed()
        fill(folder / "filler")
        seen |= refused(server, token, "full")
        (folder / "filler").unlink()
        seen["after"] = server.upload(token, picture(*[CODE] * 3)).status_code
        states = [row["state"] for row in server.wait_until_processed()]
        stock = server.stock()[CODE, "camera"]
        log = "".join(server.log)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        Server(data, {}).start()
    except DidNotStartError as error:
        seen |= {"read_only": error.code, "read_only_log": error.log}
    leftovers = [str(path) for path in data.rglob("*.part")]
    print(json.dumps(seen | {"states": states, "stock": stock, "leftovers": leftovers, "log": log}))


def refused(server: Server, token: str, name: str) -> dict[str, object]:
    answer = server.upload(token, picture(CODE, CODE))
    ready = server.admin.get("/readyz")
    return {
        name: answer.status_code,
        f"{name}_type": answer.json()["type"],
        f"{name}_id": answer.json()["id"],
        f"{name}_ready": ready.status_code,
    }


def fill(path: Path) -> None:
    """Leave no byte free."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue


if __name__ == "__main__":
    main(Path(sys.argv[1]))
