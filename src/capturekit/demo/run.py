"""The demo: cameras watch shelves, upload over HTTP, and at the end the ledger is judged.

The cameras do what the seed says, mishaps included; the truth is kept on this side only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

import anyio
import anyio.to_thread

from capturekit.demo.admin import AdminClient, admin_client
from capturekit.demo.chaos import SETTINGS, Chaos, crew_of
from capturekit.demo.plan import Mishap, Shot, plan
from capturekit.demo.server import RunningServer, running_server
from capturekit.demo.shelves import BINS, PRODUCTS, Shelf
from capturekit.demo.verdict import Tally, Verdict, judge
from capturekit.testing.camera import FakeCamera, NoAnswer, UploadAnswer

SETTLE_S: Final = 20.0
"""How long after the last shot the uploads may take, and after them their processing."""

REFUSALS: Final = frozenset({400, 413, 415, 422})
"""Statuses that say "this picture is no good", and not "come back later"."""

NO_IMAGE: Final = b"<html><title>Camera login</title></html>"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How many cameras, how long, and which story."""

    cameras: int = 3
    seconds: float = 20.0
    seed: int = 0
    chaos: Chaos | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for people to follow."""

    at_s: float
    """Since the cameras began."""
    shelf: str
    text: str
    captures: int
    """Acknowledged so far, by all cameras."""


async def run(
    options: DemoOptions,
    *,
    stop: anyio.Event,
    on_ready: Callable[[RunningServer], None] = lambda _: None,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Verdict:
    """Run the demo to its verdict; setting ``stop`` ends it early, with a verdict as well.

    Raises ServerFailed when the server does not start or cannot be asked at the end.
    """
    story = Random(options.seed)
    names = [f"shelf-{number}" for number in range(1, options.cameras + 1)]
    catalogue = {product.code: product.name for product in (*PRODUCTS, *BINS)}
    crew = [_Post.planned(name, Random(story.getrandbits(64)), options) for name in names]
    settings = SETTINGS if options.chaos else {}
    async with (
        running_server(names, catalogue, settings) as server,
        admin_client(server) as admin,
    ):
        on_ready(server)
        scene = Scene(server, admin, stop, on_event)
        if options.chaos is None:
            await scene.play(crew, options.seconds)
        else:
            scene.tally.kills = await _play_while_killing(scene, crew, options, server)
        return judge(scene.truth, await admin.stock(), scene.tally, options.seed)


async def _play_while_killing(
    scene: "Scene", crew: "list[_Post]", options: DemoOptions, server: RunningServer
) -> int:
    """Let workers do the work and be killed meanwhile; returns how many were."""
    async with (
        crew_of(server) as workers,
        admin_client(server) as admin,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(workers.suffer, admin, options.seconds, scene.stop)
        await scene.play(crew, options.seconds)
        tasks.cancel_scope.cancel()
    return workers.kills


@dataclass(frozen=True, slots=True)
class _Post:
    """A camera's place in the run: its shelf, its plan, its luck."""

    shelf: Shelf
    shots: tuple[Shot, ...]
    random: Random

    @classmethod
    def planned(cls, name: str, random: Random, options: DemoOptions) -> "_Post":
        shelf = Shelf.filled(name, random)
        return cls(shelf, plan(random, options.seconds, options.cameras), random)


@dataclass(frozen=True, slots=True)
class _Picture:
    image: bytes
    taken_at: datetime
    trigger_type: str


class Scene:
    """What the cameras do on a running server, what is true, and what was counted."""

    def __init__(
        self,
        server: RunningServer,
        admin: AdminClient,
        stop: anyio.Event,
        on_event: Callable[[Event], None],
    ) -> None:
        self.truth: dict[tuple[str, str], int] = {}
        """Pieces by shelf and code, as the last picture taken of each shelf shows them."""
        self.tally = Tally()
        self._server = server
        self._admin = admin
        self.stop = stop
        self._on_event = on_event
        self._watchers = anyio.create_task_group()
        self._started_at = 0.0

    async def play(self, crew: list[_Post], seconds: float) -> None:
        """Let all cameras do their part, then wait until everything is processed, in bounds."""
        self._started_at = anyio.current_time()
        async with self._watchers:
            with anyio.move_on_after(seconds + SETTLE_S):
                async with anyio.create_task_group() as cameras:
                    for post in crew:
                        cameras.start_soon(self._film, post)
            self._watchers.cancel_scope.deadline = anyio.current_time() + SETTLE_S

    async def _film(self, post: _Post) -> None:
        token = self._server.device_tokens[post.shelf.name]
        async with FakeCamera(self._server.base_url, token, random=post.random) as camera:
            operator = _Operator(self, post, camera)
            for shot in post.shots:
                if not await self._is_on_at(shot.at_s):
                    break
                await operator.shoot(shot.mishap)
            await operator.send_held()

    async def _is_on_at(self, at_s: float) -> bool:
        """Wait for that moment of the run; False as soon as it is stopped."""
        with anyio.move_on_after(self._started_at + at_s - anyio.current_time()):
            await self.stop.wait()
        return not self.stop.is_set()

    def take(self, shelf: Shelf) -> None:
        """A picture of the shelf, as it is now, is being taken: this is true until the next."""
        self.truth |= {(shelf.name, code): count for code, count in shelf.stock.items()}
        self.tally.taken += 1

    def acknowledge(self, capture_id: str, sent_at: float) -> None:
        """The server has answered for a picture; from here on it must not be lost."""
        self.tally.acknowledged += 1
        if capture_id not in self.tally.ended:
            self.tally.ended[capture_id] = None
            self._watchers.start_soon(self._watch, capture_id, sent_at)

    async def _watch(self, capture_id: str, sent_at: float) -> None:
        self.tally.ended[capture_id] = await self._admin.end_of(capture_id)
        self.tally.latencies_ms.append((anyio.current_time() - sent_at) * 1000)

    def tell(self, shelf: Shelf, text: str) -> None:
        """Let people know."""
        at_s = anyio.current_time() - self._started_at
        self._on_event(Event(at_s, shelf.name, text, len(self.tally.ended)))


class _Operator:
    """Takes the pictures of one shelf and brings them to the server, with the planned mishaps."""

    def __init__(self, scene: Scene, post: _Post, camera: FakeCamera) -> None:
        self._scene = scene
        self._tally = scene.tally
        self._shelf = post.shelf
        self._random = post.random
        self._camera = camera
        self._is_first = True
        self._held: list[_Picture] = []

    async def shoot(self, mishap: Mishap) -> None:
        """Something happens at the shelf; its picture is taken and sent, or held back."""
        picture = await self._take()
        if mishap is Mishap.LATE:
            self._held.append(picture)
            return
        capture_id = await self._send(picture)
        if mishap is Mishap.TWICE:
            await self._repeat(picture, capture_id)
        elif mishap is Mishap.TRUNCATED:
            await self._attack(picture, picture.image[: len(picture.image) // 2])
        elif mishap is Mishap.NOT_AN_IMAGE:
            await self._attack(picture, NO_IMAGE)
        await self.send_held()

    async def send_held(self) -> None:
        """Send what was held back, the newest first: nothing may depend on the order."""
        while self._held:
            self._tell("an older picture arrives")
            await self._send(self._held.pop())

    async def _take(self) -> _Picture:
        happened = "first picture" if self._is_first else self._shelf.change(self._random)
        trigger_type = "timer" if self._is_first else "door"
        self._is_first = False
        self._scene.take(self._shelf)
        taken_at = datetime.now(UTC)
        image = await anyio.to_thread.run_sync(self._shelf.picture, self._random)
        self._tell(happened)
        return _Picture(image, taken_at, trigger_type)

    async def _send(self, picture: _Picture) -> str | None:
        sent_at = anyio.current_time()
        answer = await self._upload(picture)
        capture_id = answer.capture_id if answer else None
        if capture_id is not None:
            self._scene.acknowledge(capture_id, sent_at)
        return capture_id

    async def _repeat(self, picture: _Picture, capture_id: str | None) -> None:
        self._tell("the same picture again")
        self._tally.repeats += 1
        answer = await self._upload(picture)
        if answer is not None and answer.is_duplicate and answer.capture_id == capture_id:
            self._tally.repeats_told += 1

    async def _attack(self, picture: _Picture, image: bytes) -> None:
        self._tell("a damaged upload")
        self._tally.hostile += 1
        # Newer than the good picture: if it counted, stock would be wrong.
        later = picture.taken_at + timedelta(milliseconds=1)
        answer = await self._upload(_Picture(image, later, picture.trigger_type))
        if answer is not None and answer.status in REFUSALS:
            self._tally.refused += 1

    async def _upload(self, picture: _Picture) -> UploadAnswer | None:
        """The server's answer, or None when it gave none."""
        try:
            return await self._camera.upload(
                picture.image, captured_at=picture.taken_at, trigger_type=picture.trigger_type
            )
        except NoAnswer:
            return None

    def _tell(self, text: str) -> None:
        self._scene.tell(self._shelf, text)
