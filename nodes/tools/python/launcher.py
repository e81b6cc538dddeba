"""The sandbox in pure Python: `confine.py` shuts itself in, then becomes the guest program."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flowkit.nodes.tools.python.process import run_confined
from flowkit.nodes.tools.python.sandbox import (
    FILES_MAX,
    Job,
    Limits,
    Outcome,
    SandboxUnavailable,
    Stop,
)
from flowkit.nodes.tools.python.seccomp import calls, program
from flowkit.nodes.tools.python.view import (
    DEVICES,
    ENVIRONMENT,
    GUEST,
    GUEST_INSIDE,
    TEMPORARY,
    WORK,
    View,
    view_of,
)

CONFINE: Final = Path(__file__).with_name("confine.py")
_LANDLOCK_CREATE: Final = 444
_SETGID, _SETUID = 6, 7


class Launcher:
    """User, mount, process and network namespaces, a root of its own, Landlock, seccomp and rlimits.

    Args:
        python: the interpreter whose packages the code may import; by default this one.
    """

    name = "launcher"

    def __init__(self, *, python: Path | None = None) -> None:
        self._python = python
        self._view: View | None = None

    def why_not(self) -> str:
        if not sys.platform.startswith("linux"):
            return "the launcher needs Linux"
        if calls() is None:
            return "its filter of system calls is written for x86-64 and arm64 only"
        if not CONFINE.is_file():
            return f"{CONFINE} is missing"
        if ctypes.CDLL(None).syscall(_LANDLOCK_CREATE, None, 0, 1) < 1:
            return (
                "the kernel has no Landlock (Linux 5.13, with landlock among its security modules)"
            )
        return ""

    def run(self, job: Job, stop: Stop) -> Outcome:
        numbers = calls()
        if numbers is None or not CONFINE.is_file():
            raise SandboxUnavailable(f"{self.why_not()}. The code was not run.")
        if self._view is None:
            self._view = view_of(self._python)
        return run_confined(self.name, _command, self._view, program(numbers), job, stop)


def _command(
    view: View, limits: Limits, uid: int | None, filter: int, answer: int
) -> Sequence[str]:
    order = ["filter", str(filter), "answer", str(answer), "disk_bytes", str(limits.disk_bytes)]
    order += ["entries", str(FILES_MAX), "host", str(os.getpid())]
    if uid is not None:  # the guest program becomes that user, and by that has no capability left
        order += ["uid", str(uid), "capability", str(_SETGID), "capability", str(_SETUID)]
    for folder in view.folders:
        order += ["folder", folder]
    for path in view.shown:
        order += ["show", os.path.realpath(path), path]
    order += ["show", str(GUEST), GUEST_INSIDE]
    for target, path in view.links:
        order += ["link", target, path]
    for device in DEVICES:
        order += ["device", device]
    for folder in (WORK, TEMPORARY):
        order += ["writable", folder]
    for name, value in ENVIRONMENT.items():
        order += ["set", name, value]
    return [
        *(sys.executable, "-I", "-S", "-B", str(CONFINE), *order, "--"),
        *(view.python, "-I", "-B", "-X", "utf8", GUEST_INSIDE, str(answer)),
    ]
