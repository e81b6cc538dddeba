"""Hostile code against each sandbox of this machine: all of it is contained, and nothing outside is touched.

The probes run in a child inside private mount, process and network namespaces, and so do the few that
are run without a sandbox, to show that they would succeed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.fault.sandbox.probes import PROBES, SMOKE

ROOT = Path(__file__).parents[3]
WASM_PYTHON = os.environ.get("FLOWKIT_TEST_WASM_PYTHON")


def privately() -> list[str]:
    """The command that begins a private place; as root, with loopback up and a fresh /proc."""
    user = [] if os.geteuid() == 0 else ["--map-current-user"]
    return ["unshare", *user, "-mpn", "--fork", "--mount-proc", "--kill-child", "--"]


@cache
def why_not() -> str:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return "no unshare here: probes run in private namespaces only"
    done = subprocess.run([*privately(), "true"], capture_output=True, text=True, check=False)
    return (
        f"the kernel forbids private namespaces: {done.stderr.strip()}" if done.returncode else ""
    )


@cache
def lacks(sandbox: str) -> str:
    from tests.fault.sandbox.inside import SANDBOXES

    return why_not() or SANDBOXES[sandbox].why_not()


def results(*arguments: str) -> list[dict[str, Any]]:
    command = [*privately(), sys.executable, "-m", "tests.fault.sandbox.inside", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def problems(found: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {each["probe"]: each["problems"] for each in found if each["problems"]}


@pytest.mark.long
@pytest.mark.parametrize("sandbox", ["bubblewrap", "launcher"])
def test_every_probe_is_contained(sandbox: str) -> None:
    if why := lacks(sandbox):
        pytest.skip(why)
    found = results(sandbox)
    assert len(found) >= 120
    assert problems(found) == {}


@pytest.mark.long
def test_every_probe_is_contained_in_webassembly() -> None:
    if why := lacks("wasm"):
        pytest.skip(why)
    found = results("wasm")
    assert len(found) >= 100
    assert problems(found) == {}


@pytest.mark.parametrize("sandbox", ["bubblewrap", "launcher"])
def test_a_handful_of_probes_is_contained(sandbox: str) -> None:
    if why := lacks(sandbox):
        pytest.skip(why)
    found = results(sandbox, "--smoke")
    assert len(found) == len(SMOKE)
    assert problems(found) == {}


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root's loopback")
def test_without_a_sandbox_the_harmless_probes_succeed() -> None:
    """Else a probe that cannot succeed anywhere would pass for one that is contained."""
    if why := why_not():
        pytest.skip(why)
    found = results("bubblewrap", "--control")
    assert len(found) >= 10
    assert problems(found) == {}


def test_probes_refuse_to_run_in_the_open() -> None:
    command = [sys.executable, "-m", "tests.fault.sandbox.inside", "bubblewrap"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "not here" in done.stderr
    assert done.stdout == ""


def test_the_table_is_long_and_has_no_name_twice() -> None:
    names = [each.name for each in PROBES]
    assert len(names) == len(set(names))
    assert len(names) >= 60
    assert set(SMOKE) <= set(names)
