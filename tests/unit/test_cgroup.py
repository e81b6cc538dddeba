"""Control groups that a killed host has left: removed by the next job, never one that may be in use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowkit.nodes.tools.python import cgroup
from flowkit.nodes.tools.python.sandbox import Limits


def test_what_a_killed_host_has_left_is_removed_by_the_next_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "_mine", lambda: [("pids", "/job")])
    place = tmp_path / "pids" / "job"
    place.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass

    def group(name: str, seconds: float) -> Path:
        (made := place / name).mkdir()
        at = time.time() - seconds
        os.utime(made, (at, at))
        return made

    left = group(f"flowkit-{ended.pid}-aa", 3_600)
    young = group(f"flowkit-{ended.pid}-bb", 1)
    alive = group(f"flowkit-{os.getppid()}-cc", 3_600)
    others = [group("flowkit-x-dd", 3_600), group("system-slice", 3_600)]
    used = group(f"flowkit-{ended.pid}-ee", 3_600)
    (used / "child").mkdir()
    os.utime(used, (0, 0))
    with cgroup.Cgroup(Limits()):
        assert not left.exists()
        assert all(each.exists() for each in (young, alive, used, *others))
        (own,) = place.glob(f"flowkit-{os.getpid()}-*")
    assert not own.exists()
