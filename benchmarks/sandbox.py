"""sandbox: a call of each sandbox that can be had here, over the same program in a plain subprocess."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks.report import Figure, Row, at_most, in_turns, median, ratio
from flowkit.nodes.tools.python import (
    Bubblewrap,
    Job,
    Launcher,
    Sandbox,
    SandboxUnavailable,
    Stop,
    Wasm,
)
from flowkit.nodes.tools.python.trial import Choice

HELLO = "print('hello')"
PANDAS = "import pandas\nprint(pandas.DataFrame({'a': [1, 2]}).sum())"


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    each = max(n or 20, repeats)
    nothing = True
    for sandbox in (Bubblewrap(), Launcher(), Wasm()):
        began = time.perf_counter()
        try:
            Choice([sandbox]).get()
        except SandboxUnavailable:
            continue
        nothing = False
        yield measure(sandbox, each, (time.perf_counter() - began) * 1000)
    if nothing:
        yield Row("sandbox", each, {"plain_ms": Figure(_plain(HELLO)())}, {"sandbox": "none here"})


def measure(sandbox: Sandbox, n: int, trial_ms: float) -> Row:
    plain, mine = in_turns(n, _plain(HELLO), _confined(sandbox, HELLO))
    plain_pandas, pandas = in_turns(max(n // 4, 1), _plain(PANDAS), _confined(sandbox, PANDAS))
    return Row(
        "sandbox",
        n,
        {
            "start_over_subprocess": at_most(ratio(mine, plain), 3),
            "start_ms": Figure(median(mine)),
            "subprocess_ms": Figure(median(plain)),
            "with_pandas_ms": Figure(median(pandas)),
            "subprocess_with_pandas_ms": Figure(median(plain_pandas)),
            "trial_ms": Figure(trial_ms),
        },
        {"sandbox": sandbox.name, "trial": "six probes, once a tool"},
    )


def _plain(code: str) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            command = [sys.executable, "-I", "-c", code]
            subprocess.run(command, cwd=work, capture_output=True, check=True)
        return (time.perf_counter() - began) * 1000

    return run


def _confined(sandbox: Sandbox, code: str) -> Callable[[], float]:
    def run() -> float:
        stop = Stop()
        began = time.perf_counter()
        outcome = sandbox.run(Job(code), stop)
        took = (time.perf_counter() - began) * 1000
        stop.close()
        if outcome.ended != "exit" or outcome.code:
            raise RuntimeError(f"{sandbox.name}: {outcome}")
        return took

    return run
