"""What is left of the capacity under too much work: no policy, a limit, AIMD, and ours.

Simulated, with a seed: the figures are the same on any machine. Goodput is the share of the
capacity that went into work done within its client's deadline. Run:
``python tests/benchmarks/bench_admission.py``; with ``--memory`` it compares how many jobs a
service rate remembers, with ``--scale`` how a scale is smoothed.
"""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.ratelimit import load
from tests import traffic

SEEDS = (1, 2, 3, 4)


def table() -> None:
    """Goodput in percent and p99 of the wait in seconds, by scenario and policy."""
    _head("goodput %, p99 wait s", [name for name, _ in traffic.POLICIES])
    for scenario in (*traffic.SCENARIOS, traffic.QUIET):
        outcomes = [traffic.Simulation(scenario, policy).run() for _, policy in traffic.POLICIES]
        _row(scenario.name, [_cell(outcome.goodput, outcome.p99_wait_s) for outcome in outcomes])


def fairness() -> None:
    """What part of its wishes each kind of client got, when one asks for 20 times as much."""
    print()
    _head("one client of 20 asks 20x as much", ["it got %", "others got %, least", "goodput %"])
    for name, policy in traffic.POLICIES:
        outcome = traffic.Simulation(traffic.GREEDY, policy).run()
        got = {key: outcome.done_by_key[key] / asked for key, asked in outcome.asked_by_key.items()}
        shares = (got.pop("client-0"), min(got.values()), outcome.goodput)
        _row(name, [f"{100 * share:.0f}" for share in shares])


def memory() -> None:
    """Where the capacity halves and few jobs tell of it: mean of some seeds."""
    _head("goodput %, p99 wait s; jobs remembered", [scenario.name for scenario in traffic.SLOW])
    for jobs in (8, 16, 32, 64, 128):
        _set("MEMORY_JOBS", jobs)
        _row(f"{jobs}", map(_mean, traffic.SLOW))


def scale() -> None:
    """How often a scale changes, by seconds of averaging and least step."""
    _head("changes of the scale a minute", [scenario.name for scenario in traffic.SCENARIOS])
    for memory_s, least in ((1e-3, 0.0), (1e-3, 0.05), (2.0, 0.0), (2.0, 0.05), (5.0, 0.05)):
        _set("SCALE_MEMORY_S", memory_s)
        _set("SCALE_STEP", least)
        _row(f"{memory_s:g} s, {least:g}", map(_changes_a_minute, traffic.SCENARIOS))


def _changes_a_minute(scenario: traffic.Scenario) -> str:
    simulation = traffic.Simulation(scenario, traffic.Ours)
    simulation.run()
    assert isinstance(simulation.policy, traffic.Ours)
    scales = simulation.policy.scales
    changes = sum(one != two for one, two in pairwise(scales))
    return f"{changes * 60 / scenario.ends_s:.0f}"


def _mean(scenario: traffic.Scenario) -> str:
    outcomes = [traffic.Simulation(scenario, traffic.Ours, seed).run() for seed in SEEDS]
    return _cell(
        statistics.mean(outcome.goodput for outcome in outcomes),
        statistics.mean(outcome.p99_wait_s for outcome in outcomes),
    )


def _set(constant: str, value: float) -> None:
    setattr(load, constant, value)


def _cell(goodput: float, p99_wait_s: float) -> str:
    return f"{100 * goodput:.0f}, {p99_wait_s:.1f}"


def _head(name: str, columns: Sequence[str]) -> None:
    _row(name, columns)
    print("|---" * (len(columns) + 1) + "|")


def _row(name: str, cells: Iterable[str]) -> None:
    print("| " + " | ".join([name, *cells]) + " |", flush=True)


TABLES: dict[str, Sequence[Callable[[], None]]] = {
    "": (table, fairness),
    "--memory": (memory,),
    "--scale": (scale,),
}

if __name__ == "__main__":
    for show in TABLES["".join(sys.argv[1:2])]:
        show()
