"""Owners' names, and who is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.owner import is_gone, this_owner

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def changed(owner: str, place: int, text: str) -> str:
    parts = owner.split("/")
    parts[place] = text
    return "/".join(parts)


def child(code: str = "") -> subprocess.Popen[str]:
    """A process that prints its owner's name and then waits for its stdin to close."""
    program = f"from flowkit.owner import this_owner; print(this_owner(), flush=True); {code}"
    return subprocess.Popen(
        [sys.executable, "-c", program + "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_owners_of_one_process_differ_and_live() -> None:
    first, second = this_owner(), this_owner()
    assert first != second
    assert not is_gone(first)
    assert not is_gone(second)


@linux
def test_a_killed_process_is_gone_even_before_it_is_reaped() -> None:
    process = child()
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin, process.stdout:
        owner = process.stdout.readline().strip()
        assert not is_gone(owner)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(owner)  # a zombie
    assert is_gone(owner)


@linux
def test_another_process_with_the_same_pid_is_not_the_owner() -> None:
    assert is_gone(changed(this_owner(), 4, "1"))


@linux
@pytest.mark.parametrize("place", [0, 1, 2])
def test_another_machine_boot_or_namespace_is_in_doubt(place: int) -> None:
    dead = changed(this_owner(), 3, "4194305")
    assert is_gone(dead)
    assert not is_gone(changed(dead, place, "elsewhere"))


@pytest.mark.parametrize("place", [1, 2, 4])
def test_what_is_not_known_is_in_doubt(place: int) -> None:
    assert not is_gone(changed(changed(this_owner(), 3, "4194305"), place, ""))


@pytest.mark.parametrize(
    "pid", ["", "0", "-1", "1e3", "٣", "9" * 20, "9" * 5000, "self", "..", "\0"]
)
def test_odd_pids_do_no_harm(pid: str) -> None:
    is_gone(changed(this_owner(), 3, pid))


@given(st.text())
def test_odd_names_are_never_gone(owner: str) -> None:
    assert not is_gone(owner)


@linux
@given(st.lists(st.text(), min_size=6, max_size=6), st.integers(0, 5))
def test_names_that_look_alike_do_no_harm(parts: list[str], keep: int) -> None:
    mixed = [*this_owner().split("/")[:keep], *parts[keep:]]
    assert is_gone("/".join(mixed)) in (True, False)


def test_without_proc_nobody_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = changed(this_owner(), 3, "4194305")

    def refuse(self: Path, *args: object, **named: object) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert not is_gone(dead)
    assert not is_gone(this_owner())
