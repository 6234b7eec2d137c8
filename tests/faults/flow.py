"""An app and workers that go on while a test does harm to what lies between them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from capturekit.queue.urls import open_queue
from tests.faults.actors import SubmitterPlan, WorkerPlan
from tests.faults.crew import Crew
from tests.faults.effects import Effects, opened
from tests.faults.inquest import Findings, held
from tests.faults.looking import until
from tests.faults.worlds import World


@dataclass(frozen=True, slots=True)
class Flow:
    """Jobs come and are done, until the block of ``flowing`` is left."""

    crew: Crew
    app: SubmitterPlan
    effects: Effects

    async def goes_on(self, count: int = 10, within_s: float = 20.0) -> float:
        """Wait for so many more effects, and return the seconds that it took."""
        wanted = self.effects.count() + count

        async def is_so() -> bool:
            return self.effects.count() >= wanted

        return await until(is_so, f"{count} more jobs are done", within_s)


@asynccontextmanager
async def flowing(
    world: World, crew: Crew, *, url: str = "", workers: int = 2, lease_s: float = 0.6
) -> AsyncIterator[Flow]:
    """Two workers and an app that use ``url`` to get at the world's queue.

    When the block is left the app ends, and what is left must be whole: nothing lost,
    nothing done twice, and every actor still the process it was.
    """
    async with open_queue(world.url):
        """A database has its tables before the actors come."""
    folder = str(world.folder)
    app = SubmitterPlan(url or world.url, folder, "app", seed=1)
    plan = WorkerPlan(url or world.url, folder, lease_s=lease_s)
    pids = [crew.start(plan) for _ in range(workers)]
    submitter = crew.start(app)
    with opened(world.folder / "effects.db") as effects:
        flow = Flow(crew, app, effects)
        await flow.goes_on()
        yield flow
    assert crew.stop(submitter) == 0, crew.words()
    found = await findings(world, app)
    assert found.wrong == [], found
    assert [crew.stop(pid) for pid in pids] == [0] * workers, crew.words()


async def findings(world: World, *apps: SubmitterPlan) -> Findings:
    """What an inquest says, asked past whatever the actors' way to the queue is."""
    async with open_queue(world.url) as queue:
        return await held(queue, world.folder, [replace(app, url=world.url) for app in apps])
