"""A control group for one job, where one can be had: what all its processes use together is counted."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from flowkit.nodes.tools.python.sandbox import Limits

_ROOT: Final = Path("/sys/fs/cgroup")
_ENTER: Final = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 > "$1" || exit 125; shift; n=$((n-1)); done; exec "$@"'
_LEFT_S: Final = 60.0
"""A group this old, whose maker is not seen, is left over; a younger one may be another container's."""
_OWN: Final = 4
"""Processes that a sandbox has beside the code's: they count in the group."""
_PAUSES_S: Final = (0, 0.001, 0.002, 0.004, 0.016, 0.064, 0.256, 1.0)
"""The kernel empties a group a moment after the end of its last process."""


class Cgroup:
    """A group for memory and processes, in version 2 or 1; without the right to make one, none.

    It is gone when the block is left; nothing may be in it any more then.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        with suppress(OSError):
            for parent, settings in self._places():
                self._make(parent, settings)
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._made:
            for pause in _PAUSES_S:
                time.sleep(pause)
                with suppress(OSError):
                    group.rmdir()
                    break

    def within(self, command: Sequence[str]) -> Sequence[str]:
        """The command, entering the groups first: so nothing of it is ever outside."""
        if not self._made:
            return command
        files = [str(group / "cgroup.procs") for group in self._made]
        return ["/bin/sh", "-c", _ENTER, "sh", str(len(files)), *files, *command]

    def _places(self) -> Iterator[tuple[Path, dict[str, int]]]:
        memory = self._limits.memory_bytes + 2 * self._limits.disk_bytes
        processes = self._limits.processes + _OWN
        mine = dict(_mine())
        if "" in mine:
            parent = _ROOT / mine[""].strip("/")
            for place in (parent, parent.parent):
                with suppress(OSError):
                    enabled = (place / "cgroup.subtree_control").read_text("ascii").split()
                    if {"memory", "pids"} <= set(enabled) and os.access(place, os.W_OK):
                        yield (
                            place,
                            {
                                "memory.max": memory,
                                "memory.swap.max": 0,
                                "memory.oom.group": 0,
                                "pids.max": processes,
                            },
                        )
                        return
        for kind, settings in (
            ("memory", {"memory.limit_in_bytes": memory}),
            ("pids", {"pids.max": processes}),
        ):
            place = _ROOT / kind / mine.get(kind, "").strip("/")
            if kind in mine and os.access(place, os.W_OK):
                yield place, settings

    def _make(self, parent: Path, settings: dict[str, int]) -> None:
        group = parent / f"flowkit-{os.getpid()}-{secrets.token_hex(6)}"
        _sweep(parent)
        group.mkdir()
        try:
            for name, value in settings.items():
                if (group / name).exists():
                    (group / name).write_text(str(value), "ascii")
        except OSError:
            group.rmdir()
            raise
        self._made.append(group)


def _sweep(parent: Path) -> None:
    """Remove groups whose maker was killed: nobody else would. One in use is refused by the kernel."""
    for group in parent.glob("flowkit-*-*"):
        with suppress(OSError, ValueError):
            maker = int(group.name.split("-")[1])
            if (
                time.time() - group.stat().st_mtime > _LEFT_S
                and not Path(f"/proc/{maker}").exists()
            ):
                group.rmdir()


def _mine() -> Iterator[tuple[str, str]]:
    """This process's groups by controller; that of version 2 under ""."""
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path
