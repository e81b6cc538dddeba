"""What pyright, mypy and ty say of `api.py` (nothing) and of `misuse.py` (what its comments say)."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
API, MISUSE = HERE / "api.py", HERE / "misuse.py"
CHECKERS = ("pyright", "mypy", "ty")
BESIDE_THE_POINT = ("reportUnused", "reportUnknown")
"""Rules of pyright that misuse.py breaks by being a list of examples, not by misusing flowkit."""

Run = Callable[[Path], "set[Found]"]


class Found(NamedTuple):
    """One diagnostic."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def call(*command: str | Path) -> str:
    """The standard output of a checker of this environment, run at the root."""
    program, *args = command
    path = Path(sysconfig.get_path("scripts"), program)
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [path, *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), f"{program} did not work:\n{done.stdout}{done.stderr}"
    return done.stdout


def pyright(tmp: Path) -> set[Found]:
    config = {
        # Not the project's settings, which leave misuse.py out; and paths here are relative.
        "include": [os.path.relpath(file, tmp) for file in (API, MISUSE)],
        "exclude": [],
        "extraPaths": [str(ROOT), str(HERE)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
    }
    tmp.joinpath("pyrightconfig.json").write_text(json.dumps(config), "utf-8")
    told: dict[str, Any] = json.loads(
        call("pyright", "-p", tmp, "--pythonpath", sys.executable, "--outputjson")
    )
    assert told["summary"]["filesAnalyzed"] == 2, told["summary"]
    found: set[Found] = set()
    for each in told["generalDiagnostics"]:
        file, rule = Path(each["file"]).name, str(each.get("rule", ""))
        if file != MISUSE.name or not rule.startswith(BESIDE_THE_POINT):
            text = f"{each['message'].splitlines()[0]} [{rule}]"
            found.add(Found(file, each["range"]["start"]["line"] + 1, text))
    return found


def lines_of(told: str, pattern: str) -> Iterator[Found]:
    for line in told.splitlines():
        match = re.match(pattern, line)
        if match:
            yield Found(Path(match[1]).name, int(match[2]), match[3])


def mypy(tmp: Path) -> set[Found]:
    told = call("mypy", "--no-pretty", "--no-error-summary", API, MISUSE)
    return set(lines_of(told, r"(.+?\.py):(\d+): error: (.+)"))


def ty(tmp: Path) -> set[Found]:
    told = call(
        "ty", "check", "--python", sys.prefix, "--extra-search-path", HERE,
        "--output-format", "concise", API, MISUSE,
    )  # fmt: skip
    return set(lines_of(told, r"(.+?\.py):(\d+):\d+: (.+)"))


RUN: dict[str, Run] = {"pyright": pyright, "mypy": mypy, "ty": ty}


def expected(checker: str) -> set[int]:
    """The lines of misuse.py whose comment names the checker."""
    named: set[int] = set()
    for number, line in enumerate(MISUSE.read_text("utf-8").splitlines(), 1):
        words = line.partition("  # ")[2].split()
        assert set(words) <= set(CHECKERS), f"misuse.py:{number}: {words} names no checker"
        if checker in words:
            named.add(number)
    return named


@pytest.mark.timeout(300)  # pyright takes some ten seconds, and more on a busy machine
@pytest.mark.parametrize("checker", CHECKERS)
def test_checkers_accept_the_api_and_report_its_misuse(checker: str, tmp_path: Path) -> None:
    found = RUN[checker](tmp_path)
    others = sorted(each for each in found if each.file != MISUSE.name)
    assert not others, f"{checker} reports what is right:\n" + "\n".join(map(str, others))
    lines = MISUSE.read_text("utf-8").splitlines()
    wanted, reported = expected(checker), {each.line for each in found}
    extra = sorted(each for each in found if each.line not in wanted)
    assert not extra, f"{checker} reports more than is wrong:\n" + "\n".join(map(str, extra))
    missed = [f"misuse.py:{number}: {lines[number - 1]}" for number in sorted(wanted - reported)]
    assert not missed, f"{checker} does not see:\n" + "\n".join(missed)


def test_every_wrong_line_is_seen_by_a_checker_and_most_by_all() -> None:
    seen = {checker: expected(checker) for checker in CHECKERS}
    everywhere = seen["pyright"] & seen["mypy"] & seen["ty"]
    anywhere = seen["pyright"] | seen["mypy"] | seen["ty"]
    assert len(everywhere) > 100
    assert len(anywhere - everywhere) < 10, "what one checker misses is rare"


def test_the_api_passes_at_import_too() -> None:
    spec = importlib.util.spec_from_file_location("typing_api", API)
    assert spec is not None
    assert spec.loader is not None
    api = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = api  # where annotations are looked up
    try:
        spec.loader.exec_module(api)
    finally:
        del sys.modules[spec.name]
    assert [api.research.name, api.wired.name, api.outer.name] == ["research", "wired", "outer"]
    assert [step.key for step in api.outer.graph.steps][:3] == [
        "inner/plan",
        "inner/write",
        "inner/cites_sources",
    ]
