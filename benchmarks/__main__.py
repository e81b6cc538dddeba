"""`python -m benchmarks SCENARIO [--n N] [--json] [--strict]`: see README.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.report import REPEATS

SCENARIOS = {
    "chain": "turns of one model step and one tool step of 2 KB, each durable before the next",
    "resume": "a killed run in a fresh process, until its first new step",
    "fanout": "one run maps a trivial tool over 1,000 items",
    "concurrent": "1,000 runs of ten steps at once, in one process and one file",
    "graph": "declare and check a static graph of 5,000 steps",
    "decide": "the pure fold and decision, in a long run over a short one",
    "import": "`import flowkit` over what it stands on, and the memory after it",
    "turns": "a planner's turns over HTTP: our own time and the journal's bytes as the talk grows",
    "sandbox": "a call of each sandbox for a model's Python, over a plain subprocess",
    "router": "how often the right tool is among the 8 that a router chooses of 100 and of 1,000",
    "agentdojo": "how often a person is asked, and whether an obeyed injection gets anything out",
    "idle": "memory of 1,000 runs that wait for a signal",
}

_MODULES = {"import": "benchmarks.imports"}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", nargs="?", choices=[*SCENARIOS, "all"])
    parser.add_argument("--n", type=int, help="another size; by default all rows of a scenario")
    parser.add_argument("--json", action="store_true", help="one JSON line for each row")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of each measurement")
    parser.add_argument("--data", type=Path, help="router: a folder of function-calling data")
    options = parser.parse_args(arguments)
    if options.data is not None and (options.scenario != "router" or not options.data.is_dir()):
        parser.error("--data is a folder, for the scenario router")
    if options.repeats < 1 or (options.n is not None and options.n < 1):
        parser.error("--n and --repeats are at least 1")
    if options.scenario is None:
        for name, text in SCENARIOS.items():
            print(f"{name:<12}{text}")
        return 0
    names = list(SCENARIOS) if options.scenario == "all" else [options.scenario]
    missed = False
    for name in names:
        scenario: Any = import_module(_MODULES.get(name, f"benchmarks.{name}"))
        more = {"data": options.data} if options.data is not None else {}
        for row in scenario.rows(options.n, options.repeats, **more):
            print(row.as_json() if options.json else row.as_text(), flush=True)
            missed = missed or not row.ok
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
