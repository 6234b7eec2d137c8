"""The typed client against a real server: upload, process, inventory, undo."""

import socket
import threading
from collections.abc import Iterator

import pytest

from capturekit.client import AsyncClient, Client, NoAnswer, Refused, calls
from tests.made_pictures import picture
from tests.servers import ADMIN_TOKEN, Server, running_server

pytestmark = [pytest.mark.needs_extra("server"), pytest.mark.timeout(120)]

CODE = "4006381333931"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, ADMIN_TOKEN) as client:
        yield client


def test_a_picture_becomes_stock_and_a_movement_is_undone(server: Server, client: Client) -> None:
    token = client.ask(calls.add_device("pantry")).token
    with Client(server.url, token) as camera:
        stored = camera.ask(calls.ingest(picture(CODE, CODE)))
        frame = calls.put_frame("pantry", "7f3a-1", picture(CODE, CODE, CODE), meta="rssi=-70")
        frames = [camera.ask(frame) for _ in range(2)]
    assert [one.duplicate for one in frames] == [False, True]

    for capture_id in (stored.capture_id, frames[0].capture_id):
        shown = client.ask(calls.capture(capture_id, wait_s=20))
        assert shown.state == "completed"
    assert _quantity(client) == 3

    used = client.ask(calls.move("use", CODE, 1, source="pantry", reason="lunch"))
    assert used.movement.source == "pantry"
    assert _quantity(client) == 2
    client.ask(calls.undo(used.movement.movement_id))
    assert _quantity(client) == 3
    figure = client.ask(calls.why(CODE)).stock[0]
    assert figure.basis is not None
    assert figure.basis.kind == "camera"
    assert client.ask(calls.history(item=CODE)).lines


def _quantity(client: Client) -> int:
    return client.ask(calls.stock(location="pantry")).items[0].quantity


def test_a_task_can_be_waited_for(server: Server, client: Client) -> None:
    token = client.ask(calls.add_device("attic")).token
    with Client(server.url, token) as camera:
        capture_id = camera.ask(calls.ingest(picture("4000417025005"))).capture_id
    queued = client.ask(calls.process(capture_id))
    assert client.ask(calls.task(queued.task_id, wait_s=20)).successful


def test_a_call_is_done_once_however_often_it_is_sent(client: Client) -> None:
    call = calls.add_device("porch")
    assert client.ask(call) == client.ask(call)


def test_a_refusal_says_why(client: Client) -> None:
    with pytest.raises(Refused) as refusal:
        client.ask(calls.capture("nope"))
    assert refusal.value.status == 404
    assert refusal.value.problem is not None
    assert refusal.value.problem.type.endswith("not-found")


@pytest.mark.anyio
async def test_the_async_client_asks_the_same(server: Server) -> None:
    async with AsyncClient(server.url, ADMIN_TOKEN) as client:
        assert (await client.ask(calls.reviews())).reviews == []
        with pytest.raises(Refused):
            await client.ask(calls.task("nope"))


def test_what_the_server_puts_off_is_sent_again() -> None:
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    body = b'{"devices": [], "next": null}'
    done = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            # The first connection breaks, the second is put off, the third is answered.
            for told in (b"", busy, done):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(told)

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "token") as client:
            assert client.ask(calls.devices()).devices == []
        thread.join()


def test_a_server_that_is_not_there_is_told() -> None:
    with Client("http://127.0.0.1:9", "token", tries=2) as client, pytest.raises(NoAnswer):
        client.ask(calls.devices())
