"""What is left of the capacity under too much work: no policy, a limit, AIMD, and ours.

Simulated, with a seed: the figures are the same on any machine. Goodput is the share of the
capacity that went into work done within its client's deadline. Run:
``python tests/benchmarks/bench_admission.py``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import traffic


def table() -> None:
    """Goodput in percent and p99 of the wait in seconds, by scenario and policy."""
    names = [name for name, _ in traffic.POLICIES]
    print("| goodput %, p99 wait s | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for scenario in traffic.SCENARIOS:
        cells = []
        for _, policy in traffic.POLICIES:
            outcome = traffic.Simulation(scenario, policy).run()
            cells.append(f"{100 * outcome.goodput:.0f}, {outcome.p99_wait_s:.1f}")
        print(f"| {scenario.name} | " + " | ".join(cells) + " |")


def fairness() -> None:
    """What part of its wishes each kind of client got, when one asks for 20 times as much."""
    print("\n| one client of 20 asks 20x as much | greedy got | others got, least | goodput % |")
    print("|---|---|---|---|")
    for name, policy in traffic.POLICIES:
        outcome = traffic.Simulation(traffic.GREEDY, policy).run()
        got = {key: outcome.done_by_key[key] / asked for key, asked in outcome.asked_by_key.items()}
        greedy = got.pop("client-0")
        goodput = f"{100 * outcome.goodput:.0f}"
        print(f"| {name} | {greedy:.0%} | {min(got.values()):.0%} | {goodput} |")


if __name__ == "__main__":
    table()
    fairness()
