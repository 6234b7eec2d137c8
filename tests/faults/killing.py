"""Kills workers, apps and the server at random while jobs flow, then counts what is left.

The long form: ``nox -s faults -- --kills 1000 --backend redis``. With the same seed the same
plan of kills is carried out; what they hit depends on the machine.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from capturekit.queue.urls import open_queue
from tests.faults.actors import LEASE_S, Point, SubmitterPlan, WorkerPlan
from tests.faults.crew import Crew, Plan, hired
from tests.faults.effects import Effects, opened
from tests.faults.inquest import Findings, held
from tests.faults.worlds import WORLDS, World

WORKERS = 3
APPS = 2
WORKER_POINTS = (Point.CLAIMED, Point.STARTED, Point.EFFECTED, Point.FINISHED)
APP_POINTS = (Point.INTENDED, Point.SUBMITTED)
LULL_S = 3.0
FROZEN = 0.15
"""The part of workers that is not killed but frozen."""
FROZEN_S = 1.5 * LEASE_S
"""For so long or more: its jobs are given to others."""
AT_A_POINT = 0.25
"""The part of new actors that are told to die at a named point."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The line that a run prints."""

    backend: str
    seed: int
    kills: Counter[str]
    findings: Findings
    seconds: float

    def __str__(self) -> str:
        found, total = self.findings, killed(self.kills)
        kills = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        return (
            f"{self.backend}: seed {self.seed}: {total} kills ({kills}), {found.jobs} jobs, "
            f"{found.lost} lost, {found.doubled} doubled, {found.worker_lost} WorkerLost, "
            f"{found.fenced} late answers fenced off, {found.again} effects that were there, "
            f"{self.seconds:.0f} s"
        )


def killed(kills: Counter[str]) -> int:
    """How many ended by a kill."""
    return sum(count for what, count in kills.items() if what not in ("frozen", "could not start"))


class Killer:
    """Keeps so many workers and apps going, and kills them by plan."""

    def __init__(self, world: World, crew: Crew, effects: Effects, seed: int) -> None:
        self._world = world
        self._crew = crew
        self._effects = effects
        self._rng = random.Random(seed)
        folder = str(world.folder)
        self.apps = [
            SubmitterPlan(world.url, folder, f"app{number}", seed) for number in range(APPS)
        ]
        plans: list[Plan] = [WorkerPlan(world.url, folder)] * WORKERS + self.apps
        self._running = {crew.start(plan): plan for plan in plans}
        self.kills: Counter[str] = Counter()
        self._frozen: dict[int, float] = {}

    def kill(self) -> None:
        """One kill, after a while; those who died by themselves meanwhile are replaced."""
        self._await_work()
        time.sleep(self._rng.uniform(0.02, 0.25))
        self._replace_gone()
        self._thaw()
        targets = ["worker", "worker", "worker", "app"]
        what = self._rng.choice([*targets, "server"] if self._world.server else targets)
        self.kills[what] += 1
        if what == "server":
            self._world.kill_server()
            return
        kind = WorkerPlan if what == "worker" else SubmitterPlan
        pid = self._rng.choice([pid for pid, plan in self._running.items() if type(plan) is kind])
        if what == "worker" and self._rng.random() < FROZEN:
            self._freeze(pid)
        else:
            self._frozen.pop(pid, None)
            self._crew.kill(pid)
            self._replace(pid)

    def _freeze(self, pid: int) -> None:
        self.kills["frozen"] += 1
        self.kills["worker"] -= 1
        self._crew.freeze(pid)
        self._frozen[pid] = time.monotonic() + FROZEN_S

    def _thaw(self, *, is_over: bool = False) -> None:
        for pid, until in list(self._frozen.items()):
            if is_over or time.monotonic() > until:
                del self._frozen[pid]
                self._crew.thaw(pid)

    def _await_work(self) -> None:
        """Until jobs flow again, or for ``LULL_S``: after a kill they may not."""
        before, give_up_at = self._effects.count(), time.monotonic() + LULL_S
        while self._effects.count() == before and time.monotonic() < give_up_at:
            time.sleep(0.01)

    def _replace_gone(self) -> None:
        for pid in self._crew.gone():
            # Whoever starts while the server is away may end for that.
            is_kill = self._crew.stop(pid) == -signal.SIGKILL
            self.kills["at a point" if is_kill else "could not start"] += 1
            self._replace(pid)

    def _replace(self, pid: int) -> None:
        plan = self._running.pop(pid)
        points = WORKER_POINTS if isinstance(plan, WorkerPlan) else APP_POINTS
        die_at = self._rng.choice(points) if self._rng.random() < AT_A_POINT else ""
        successor = replace(plan, die_at=die_at)
        self._running[self._crew.start(successor)] = successor

    def end_apps(self) -> None:
        """Let apps end what they are at, and leave workers that mean to live."""
        self._thaw(is_over=True)
        self._replace_gone()
        for pid, plan in list(self._running.items()):
            if isinstance(plan, SubmitterPlan):
                del self._running[pid]
                if self._crew.stop(pid):
                    # Killed before it was told what became of its jobs: it asks again.
                    self._crew.stop(self._crew.start(replace(plan, die_at="")))
            elif plan.die_at:
                self._crew.kill(pid)
                del self._running[pid]
                plain = replace(plan, die_at="")
                self._running[self._crew.start(plain)] = plain

    def end_workers(self) -> list[int]:
        """Ask them to end; their exit codes."""
        return [self._crew.stop(pid) for pid in self._running]


def kill_for(backend: str, kills: int, seed: int, folder: Path) -> Figures:
    """The whole of it."""
    begun = time.monotonic()
    with (
        WORLDS[backend](folder) as world,
        hired(folder) as crew,
        opened(folder / "effects.db") as effects,
    ):
        anyio.run(_prepare, world)
        killer = Killer(world, crew, effects, seed)
        while killed(killer.kills) < kills:
            killer.kill()
        killer.end_apps()
        findings = anyio.run(_inquire, world, killer.apps)
        if any(codes := killer.end_workers()):
            findings.wrong.append(f"workers that were asked to end did so with {codes}")
            findings.wrong.append(crew.words())
    return Figures(backend, seed, killer.kills, findings, time.monotonic() - begun)


async def _prepare(world: World) -> None:
    async with open_queue(world.url):
        """A database gets its tables before many ask for them at once."""


async def _inquire(world: World, apps: Sequence[SubmitterPlan]) -> Findings:
    async with open_queue(world.url) as queue:
        return await held(queue, world.folder, apps)


def main() -> int:
    """Print a line of figures for each backend; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--backend", choices=tuple(WORLDS), action="append")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    wrong: list[str] = []
    for backend in given.backend or WORLDS:
        print(f"{backend}: seed {given.seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="faults") as folder:
            figures = kill_for(backend, given.kills, given.seed, Path(folder))
        print(figures, flush=True)
        wrong += figures.findings.wrong
    print(*wrong[:50], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
