"""`python -m flowkit.testing [SCRIPT]`: the strict server for shells and other processes.

The first line on stdout is the base URL. It serves until Ctrl-C or SIGTERM, then tells the broken
rules on stderr, one a line; exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import cast

from flowkit.chat import ModelRequest
from flowkit.testing.faults import FAULTS, TRANSIENT, Faults
from flowkit.testing.rules import Rules
from flowkit.testing.script import Reply, Script
from flowkit.testing.server import strict_server


def echo(request: ModelRequest, index: int) -> Reply:
    """What is said without a script: the last message."""
    return f"You said: {request.messages[-1].content or ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        rules = Rules.named(options.rules)
        faults = Faults(options.fault_rate, options.fault or TRANSIENT, seed=options.seed)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if not 0 <= options.port <= 65535:
        raise SystemExit("--port: 0 to 65535; 0 takes a free one.")
    if options.context_tokens:
        rules = replace(rules, context_tokens=options.context_tokens)
    script = load(options.script) if options.script else echo
    over = Event()

    def stop(number: int, frame: object) -> None:
        over.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with strict_server(script, rules=rules, faults=faults, port=options.port) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        over.wait()
    sys.stderr.writelines(f"{violation}\n" for violation in server.violations)
    return 1 if server.violations else 0


def load(target: str) -> Script:
    """The script at `file.py:name` or `module:name`."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise SystemExit(f"{target}: write file.py:name, or module:name")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise SystemExit(f"{target}: there is no such file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    if not hasattr(module, name):
        raise SystemExit(f"{target}: {place} has no {name!r}")
    return cast("Script", getattr(module, name))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flowkit.testing", description=__doc__)
    parser.add_argument(
        "script", nargs="?", help="file.py:name or module:name of a script; else it echoes"
    )
    parser.add_argument("--port", type=int, default=0, help="else a free one")
    parser.add_argument("--rules", default="kimi-k2-thinking", help="whose rules to enforce")
    parser.add_argument("--context-tokens", type=int, default=0, help="a window of another size")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of requests, 0 to 1")
    parser.add_argument(
        "--fault", action="append", choices=sorted(FAULTS), help="a kind (may be repeated)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another lot of faults")
    return parser


if __name__ == "__main__":
    sys.exit(main())
