"""Mutants: the list of them, and a copy of the tree in which they are played.

A mutant is the code with one text replaced, in a place where that breaks a promise. The tests that it
names run twice in a copy of the tree, as it is and mutated; they must pass first and fail then.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("list.toml")

COPIED = ("flowkit", "nodes", "store", "workflows", "tests", "pyproject.toml")

LIMIT_S = 120.0
"""What a mutant's tests may take without it; they take 2 s on a machine that does nothing else."""

SLACK_S = 20.0
"""What they may take with it, beyond five times as long as without."""

TELLS = """
import atexit, os, sys

def tell():
    loaded = [getattr(each, "__file__", None) or "" for each in list(sys.modules.values())]
    if os.environ["MUTANT_FILE"] in map(os.path.realpath, loaded):
        open(os.environ["MUTANT_SEEN"], "w").close()

if "MUTANT_FILE" in os.environ:
    atexit.register(tell)
"""
"""What each process of a mutant's tests does, those too that a test starts: say if it has imported the file."""

Outcome: TypeAlias = Literal["caught", "survived", "outdated", "wrong", "skipped"]


@dataclass(frozen=True)
class Mutant:
    """`text` stands once in `file` and is replaced `by` something worse; `why`: what goes wrong then.

    At least one of `tests` (pytest's node ids) must fail then. Where it `hangs`, to come to no end
    counts as that, too.
    """

    name: str
    file: str
    text: str
    by: str
    why: str
    tests: tuple[str, ...]
    hangs: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: "wrong" if its tests show nothing, and `said` why not."""

    mutant: Mutant
    outcome: Outcome
    seconds: float = 0.0
    caught_by: str = ""
    said: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in ("caught", "skipped")

    def __str__(self) -> str:
        return f"mutant {self.mutant.name} ({self.mutant.file}): {self.outcome}. {self.said}"


def mutants() -> Mapping[str, Mutant]:
    """The mutants of the list, by name."""
    made: dict[str, Mutant] = {}
    for name, table in tomllib.loads(LIST.read_text("utf-8")).items():
        fields: dict[str, Any] = {**table, "tests": tuple(table["tests"])}
        made[name] = Mutant(name, **fields)
    return made


def outdated(mutant: Mutant, root: Path = ROOT) -> str:
    """Why a mutant does not fit the code any more, and what to do; empty if it does."""
    path = root / mutant.file
    there = path.read_text("utf-8").count(mutant.text) if path.is_file() else 0
    if there == 1:
        return ""
    return (
        f"Its text stands {there} times in {mutant.file}, and must once: the list is outdated. Look up "
        f"what has become of the place, and write the new text into {LIST.relative_to(ROOT)} (longer, "
        f"if it stands there twice); if what it guards is gone, take the mutant out.\n{mutant.text}"
    )


@dataclass(frozen=True)
class _Played:
    """How tests went: pytest's exit code (None: cut off, or died), and what failed first."""

    code: int | None
    failed: str
    imported: bool
    seconds: float
    told: str


class Tree:
    """A copy of the tree, mutated for as long as a mutant is played."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.root / name, symlinks=True)
            else:
                shutil.copy2(ROOT / name, self.root / name)
        (self.root / "sitecustomize.py").write_text(TELLS, "utf-8")

    def play(self, mutant: Mutant, slack_s: float = SLACK_S) -> Verdict:
        """Run a mutant's tests without it and with it."""
        if stale := outdated(mutant, self.root):
            return Verdict(mutant, "outdated", said=stale)
        plain = self._run(mutant, LIMIT_S)
        if plain.code == 5:
            return Verdict(mutant, "skipped", plain.seconds, said="Its tests are skipped here.")
        if plain.code != 0:
            said = f"Its tests must pass without it; mend them, or their names:\n{plain.told}"
            return Verdict(mutant, "wrong", plain.seconds, said=said)
        if not plain.imported:
            said = f"Its tests do not import {mutant.file}. Name tests that do."
            return Verdict(mutant, "wrong", plain.seconds, said=said)
        with self._mutated(mutant):
            found = self._run(mutant, 5 * plain.seconds + slack_s, write=False)
        return _judge(mutant, found, plain.seconds + found.seconds)

    @contextmanager
    def _mutated(self, mutant: Mutant) -> Generator[None]:
        path = self.root / mutant.file
        before, was = path.read_bytes(), path.stat()
        text = before.decode("utf-8").replace(mutant.text, mutant.by)
        try:
            path.write_text(text, "utf-8")
            # Byte code is known by size and second of its source: no second of ours may be the same.
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 10_000_000_000))
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    def _run(self, mutant: Mutant, limit_s: float, *, write: bool = True) -> _Played:
        """The mutant's tests in a process of their own; the byte code that it makes is kept, if told."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment |= {"PYTHONPATH": str(self.root), "CI": "1"}  # CI: hypothesis draws no lots
        seen = self.root / "seen"
        seen.unlink(missing_ok=True)
        environment |= {"MUTANT_FILE": str(self.root / mutant.file), "MUTANT_SEEN": str(seen)}
        if not write:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        began = time.monotonic()
        program = [sys.executable, "-m", "tests.mutants.inside", *mutant.tests]
        with subprocess.Popen(
            program, cwd=self.root, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                told, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                told = f"no end within {limit_s:.0f} s"
            finally:
                with _gone_already():
                    os.killpg(process.pid, signal.SIGKILL)  # with all that its tests have started
        seconds = time.monotonic() - began
        body, _, last = told.strip().rpartition("\n")
        if not last.startswith('{"code":'):
            return _Played(None, "", False, seconds, told)
        tail = "\n".join(body.splitlines()[-30:])
        return _Played(**json.loads(last), imported=seen.exists(), seconds=seconds, told=tail)


@contextmanager
def _gone_already() -> Generator[None]:
    try:
        yield
    except ProcessLookupError:
        pass


def _judge(mutant: Mutant, found: _Played, seconds: float) -> Verdict:
    if found.code == 1:
        return Verdict(mutant, "caught", seconds, found.failed)
    if found.code == 0:
        said = (
            f"None of its tests fails, though {mutant.why}. Write the test that does, in the suite "
            f"where it belongs, and name it in {LIST.relative_to(ROOT)}."
        )
        return Verdict(mutant, "survived", seconds, said=said)
    if found.code is None and found.told.startswith("no end") and mutant.hangs:
        return Verdict(mutant, "caught", seconds, "it hangs")
    said = f"Its tests neither pass nor fail, but end in another way:\n{found.told}"
    return Verdict(mutant, "wrong", seconds, said=said)
