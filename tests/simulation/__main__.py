"""`python -m tests.simulation [--seed N] [--count N] [--seconds S]`: play scenarios; a violation gives exit code 1."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from tests.simulation.faults import KINDS
from tests.simulation.process import Violation
from tests.simulation.scenario import Report, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one only, and tell of it")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1000, help="so many seeds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    asked = parser.parse_args()
    if asked.seed is None:
        logging.getLogger("flowkit").setLevel(logging.CRITICAL)
    if asked.seed is not None:
        try:
            print(simulate(asked.seed))
        except Violation as violation:
            print(violation)
            return 1
        return 0
    tally = Tally()
    end = time.monotonic() + asked.seconds
    for seed in range(asked.first, asked.first + asked.count):
        if time.monotonic() > end:
            break
        tally.play(seed)
    print(tally)
    return 1 if tally.violations else 0


class Tally:
    """Scenarios played, and what struck in them."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.scenarios = 0
        self.struck = 0
        self.faults: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.violations: list[str] = []

    def play(self, seed: int) -> None:
        try:
            self.add(simulate(seed))
        except Violation as violation:
            self.scenarios += 1
            self.violations.append(str(violation))
            print(violation, file=sys.stderr, flush=True)

    def add(self, report: Report) -> None:
        self.scenarios += 1
        self.struck += bool(report.faults)
        self.faults.update(report.faults)
        self.ends[report.outcome[0]] += 1

    def __str__(self) -> str:
        took = time.perf_counter() - self.began
        lines = [f"{kind:28} {self.faults[kind]:8}" for kind in KINDS]
        told = (
            f"{self.scenarios} scenarios, {self.struck} with faults, {self.faults.total()} faults, "
            f"{len(self.violations)} violations, {self.scenarios / took:.0f} scenarios/s; "
            f"ends: {', '.join(f'{count} {how}' for how, count in self.ends.most_common())}"
        )
        return "\n".join([*lines, told])


if __name__ == "__main__":
    sys.exit(main())
