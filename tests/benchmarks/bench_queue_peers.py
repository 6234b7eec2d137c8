"""What a job in Redis costs, beside celery, arq, dramatiq, SAQ, taskiq and RQ.

Run it: ``python tests/benchmarks/bench_queue_peers.py [ours celery …]``. All use one Valkey
server, which it starts, and one worker process each, with status and result kept. They take
turns, and those whose turn it is not are frozen, so that a busy machine slows all. Times of
CPU are those of the client's or the worker's process. arq wants an older redis-py than we do:
``--python-arq`` (or ``PYTHON_ARQ``) names the Python of an environment that has it.
"""

import argparse
import contextlib
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.trial import STAMP
from tests.servers_redis import free_port, running_redis

ROOT = Path(__file__).parents[2]
PEERS = ("ours", "taskiq", "celery", "arq", "dramatiq", "saq", "rq")
MANY = 100
"""Jobs enqueued at once."""
JOB_WAIT_S = 30.0
SETTLE_S = 0.15
"""From thawing a process, or from a job's start, until nothing more happens because of it."""
LATENCY_S = 4.0
"""The longest that one peer's latency is measured for in a round."""
LOOKS_EVERY_S = {"arq": 0.5}
"""Of a peer whose worker looks for jobs so seldom that it tells in which moment one comes."""
SLEEP_S, SLEEP_SLOTS = 0.02, 4
TURNS = 400_000
"""Of ``burn``: some 20 ms."""


class Peer:
    """A library's client and worker, each a process; frozen except in its own turn."""

    def __init__(self, name: str, python: str, url: str, folder: Path, **more: str) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._fifo = folder / f"{name}.pipe"
        os.mkfifo(self._fifo)
        self._stamps = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK)
        # Someone who writes must be there, or the pipe is at its end until a worker comes.
        self._held = os.open(self._fifo, os.O_WRONLY)
        self._command = [python, "-m", f"tests.benchmarks.peers.{name}"]
        self._url = url
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TRIAL_PIPE": str(self._fifo),
            **more,
        }
        self.workers = [self._start("worker")]
        self._client = self._start("client")
        assert self._hear() == "ready"

    def _start(self, role: str) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*self._command, role, self._url],
                stdin=subprocess.PIPE if role == "client" else subprocess.DEVNULL,
                stdout=subprocess.PIPE if role == "client" else log,
                stderr=log,
                cwd=ROOT,
                env=self._environment,
            )

    def add_worker(self) -> None:
        self.workers.append(self._start("worker"))

    def ask(self, *what: object) -> Any:  # noqa: ANN401  # JSON
        """Have the client do something, and return what it says of it."""
        assert self._client.stdin is not None
        self._client.stdin.write(json.dumps(what).encode() + b"\n")
        self._client.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:  # noqa: ANN401  # as above
        assert self._client.stdout is not None
        line = self._client.stdout.readline()
        assert line, f"{self.name}: {self._log.read_text(errors='replace')[-2000:]}"
        return json.loads(line)

    def started(self, count: int) -> list[int]:
        """When each of the next ``count`` jobs started, once they have."""
        found = b""
        give_up_at = time.monotonic() + JOB_WAIT_S
        while len(found) < count * STAMP.size:
            ready, _, _ = select.select([self._stamps], [], [], give_up_at - time.monotonic())
            log = self._log.read_text(errors="replace")[-2000:] if not ready else ""
            assert ready, f"{self.name}: {len(found) // STAMP.size} of {count} jobs ran; {log}"
            found += os.read(self._stamps, (count * STAMP.size) - len(found))
        return [stamp for (stamp,) in STAMP.iter_unpack(found)]

    def cpu_s(self) -> float:
        """What its workers have used."""
        return sum(_cpu_s(pid) for one in self.workers for pid in _family(one.pid))

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        time.sleep(SETTLE_S)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            for pid in _family(worker.pid):
                os.kill(pid, number)

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        self._client.kill()
        for process in (*self.workers, self._client):
            process.wait()
        for pipe in (self._client.stdin, self._client.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        os.close(self._stamps)
        os.close(self._held)


def _family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _cpu_s(pid: int) -> float:
    # The kernel's id of another process' clock, see clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


def enqueue_and_run(peer: Peer, jobs: int) -> dict[str, float]:
    """Microseconds of CPU a job: of the client, singly and many at once, and of the worker.

    The worker is frozen while jobs come in.
    """
    peer.ask("singly", 20, 0.0, 0)
    singly = peer.ask("singly", jobs, 0.0, 0) / jobs
    many = peer.ask("many", jobs // MANY, MANY) / jobs
    before = peer.cpu_s()
    peer.thaw()
    peer.started(2 * jobs + 20)
    # What ends the last job comes after its start.
    time.sleep(SETTLE_S)
    worker = (peer.cpu_s() - before) / (2 * jobs + 20)
    return {"enqueue": singly * 1e6, f"enqueue {MANY}s": many * 1e6, "worker": worker * 1e6}


def latencies(peer: Peer, rng: random.Random) -> list[float]:
    """Milliseconds from before a job is enqueued until it starts, all being idle before."""
    found: list[float] = []
    give_up_at = time.monotonic() + LATENCY_S
    while len(found) < 30 and time.monotonic() < give_up_at:
        time.sleep(0.02 + rng.random() * LOOKS_EVERY_S.get(peer.name, 0.04))
        asked_at = peer.ask("one")
        found.append((peer.started(1)[0] - asked_at) / 1e6)
    return found


def throughput(peer: Peer, jobs: int, sleep_s: float, turns: int) -> float:
    """Jobs a second, from the first start to the last."""
    peer.freeze()
    peer.ask("singly", jobs, sleep_s, turns)
    peer.thaw()
    stamps = sorted(peer.started(jobs))
    return (jobs - 1) / (stamps[-1] - stamps[0]) * 1e9


def bare(processes: int, jobs: int) -> float:
    """Jobs of CPU work a second that so many processes do without any library."""
    command = [sys.executable, "-m", "tests.benchmarks.peers.trial"]
    with ExitStack() as stack:
        burners = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
            )
            for _ in range(processes)
        ]
        for one in burners:
            assert one.stdout is not None
            one.stdout.readline()
        for one in burners:
            assert one.stdin is not None
            one.stdin.write(b"%d\n" % (TURNS * jobs // processes))
            one.stdin.flush()
        return jobs / max(float(one.stdout.readline()) for one in burners if one.stdout)


def scaling(make: Callable[[], Peer], rounds: int) -> dict[str, float]:
    """How many times more two workers do than one: on work that sleeps, on CPU work, and bare.

    ``bare`` is what the machine has to give when it does CPU work in two processes.
    """
    one, two = make(), make()
    two.add_worker()
    try:
        ratios: dict[str, list[float]] = {"sleep": [], "cpu": [], "bare": []}
        for peer in (one, two):
            for turns in (0, 1):
                peer.ask("singly", 8, 0.0, turns)
            peer.started(16)
        for _ in range(rounds):
            for what, work in (("sleep", (400, SLEEP_S, 0)), ("cpu", (60, 0.0, TURNS))):
                single = throughput(one, *work)
                ratios[what].append(throughput(two, *work) / single)
            ratios["bare"].append(bare(2, 60) / bare(1, 60))
        return {what: statistics.median(found) for what, found in ratios.items()}
    finally:
        one.end()
        two.end()


@contextlib.contextmanager
def turn(peer: Peer) -> Iterator[Peer]:
    """The peer's own time; it is frozen before and after, and begins frozen."""
    peer.freeze()
    try:
        yield peer
    finally:
        peer.freeze()


def measure(peers: Sequence[Peer], rounds: int, jobs: int) -> dict[str, dict[str, float]]:
    """The figures by peer, medians over the rounds."""
    rng = random.Random(5)
    costs: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers}
    waits: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for peer in peers:
        assert peer.ask("check") == 1, f"{peer.name} keeps no result"
        peer.started(1)
        peer.freeze()
    for _ in range(rounds):
        for peer in peers:
            with turn(peer):
                costs[peer.name].append(enqueue_and_run(peer, jobs))
                waits[peer.name] += latencies(peer, rng)
    return {name: _figures(costs[name], waits[name]) for name in costs}


def _figures(costs: Sequence[dict[str, float]], waits: Sequence[float]) -> dict[str, float]:
    figures = {what: statistics.median(each[what] for each in costs) for what in costs[0]}
    figures["p50"] = statistics.median(waits)
    figures["p95"] = statistics.quantiles(waits, n=20)[-1]
    return figures


GOALS = (
    ("enqueue", "taskiq", 1.0),
    (f"enqueue {MANY}s", "rq", 0.5),
    ("worker", "taskiq", 0.8),
    ("worker", "celery", 0.8),
    ("p50", "taskiq", 1.2),
)
"""Ours by theirs, at most."""


def report(figures: dict[str, dict[str, float]]) -> None:
    """Print a line a peer, then the ratios that matter."""
    print(f"{'':10}{'enqueue':>10}{f'in {MANY}s':>10}{'worker':>10}{'p50':>9}{'p95':>9}")
    print(f"{'':10}{'µs CPU':>10}{'µs CPU':>10}{'µs CPU':>10}{'ms':>9}{'ms':>9}")
    for name, row in figures.items():
        cpu = "".join(f"{row[what]:10.0f}" for what in ("enqueue", f"enqueue {MANY}s", "worker"))
        print(f"{name:10}{cpu}{row['p50']:9.2f}{row['p95']:9.2f}")
    for what, peer, goal in GOALS:
        if {"ours", peer} <= set(figures):
            ratio = figures["ours"][what] / figures[peer][what]
            print(
                f"{what:12} {ratio:5.2f} x {peer:8} (goal: at most {goal}) {_mark(ratio <= goal)}"
            )


def _mark(is_met: bool) -> str:  # noqa: FBT001  # one word for one truth
    return "ok" if is_met else "MISSED"


def main() -> None:
    """Measure and print."""
    given = _arguments()
    begun = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_redis("valkey", folder / "redis", port=free_port()))
        base = f"redis://127.0.0.1:{server.port}"
        names = [name for name in given.peers if name != "arq" or given.python_arq]
        if "arq" in given.peers and not given.python_arq:
            print("arq is left out: --python-arq names no environment that has it")
        with ExitStack() as running:
            peers = []
            for number, name in enumerate(names):
                python = given.python_arq if name == "arq" else sys.executable
                url = given.url if name == "ours" and given.url else f"{base}/{number}"
                peers.append(Peer(name, python, url, folder))
                running.callback(peers[-1].end)
            report(measure(peers, given.rounds, given.jobs))
        if "ours" in names:
            _report_scaling(base, given.url, folder, given.rounds)
    print(f"took {time.monotonic() - begun:.0f} s")


def _report_scaling(base: str, url: str, folder: Path, rounds: int) -> None:
    numbers = iter(range(8, 16))

    def made() -> Peer:
        number = next(numbers)
        (own := folder / str(number)).mkdir()
        own_url = (
            f"sqlite:///{own / 'queue.db'}" if url.startswith("sqlite") else f"{base}/{number}"
        )
        slots = str(SLEEP_SLOTS)
        return Peer("ours", sys.executable, own_url, own, TRIAL_CONCURRENCY=slots)

    ratios = scaling(made, rounds)
    for what, goal in (("sleep", 1.8), ("cpu", 1.7)):
        ratio = ratios[what]
        print(
            f"2 workers, {what:6} {ratio:5.2f} x one (goal: at least {goal}) {_mark(ratio >= goal)}"
        )
    print(f"2 processes, no queue {ratios['bare']:5.2f} x one: what the machine gives to CPU work")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", default=PEERS, help=f"some of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=400, help="enqueued singly, and again in 100s")
    parser.add_argument("--python-arq", default=os.environ.get("PYTHON_ARQ", ""))
    parser.add_argument("--url", default="", help="of our queue, instead of one in the same Redis")
    return parser.parse_args()


if __name__ == "__main__":
    main()
