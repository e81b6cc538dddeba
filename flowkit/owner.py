"""Who drives a run: the name of an engine in a process, and whether that process is gone.

An owner's name says host, boot, pid namespace, pid, the process's start time, and a random part
that tells two engines of one process apart. So a restart after `kill -9` need not wait until the
lease of the dead process has run out. Where there is no /proc, nobody is ever known to be gone.
"""

from __future__ import annotations

import os
import platform
import secrets
from pathlib import Path

_PARTS = 6
_DEAD = frozenset("ZXx")


def this_owner() -> str:
    """A new owner's name for this process; every call gives another one."""
    own = _process("self") or ("", "")
    parts = (*_place(), str(os.getpid()), own[1], secrets.token_hex(8))
    return "/".join(parts)


def is_gone(owner: str) -> bool:
    """Whether the owner's process certainly runs no more; False when in doubt.

    Certain is: it was on this machine, in this boot and this pid namespace, and its pid is free, or
    belongs to a process that started at another time. Other machines are always in doubt.
    """
    parts = owner.split("/")
    if len(parts) != _PARTS:
        return False
    place, (pid, started, _) = tuple(parts[:3]), parts[3:]
    if not (_is_number(pid) and _is_number(started)) or place != _place() or not all(place):
        return False
    found = _process(pid)
    if found is None:
        return not _answers(int(pid))
    state, start = found
    return bool(start) and (start != started or state in _DEAD)


def _place() -> tuple[str, str, str]:
    """Host, boot and pid namespace; empty where they cannot be told."""
    host = platform.node().replace("/", "_")
    try:
        # A /proc of another pid namespace (a chroot, a careless container) would show other
        # processes under our numbers.
        if Path("/proc/self").readlink().name != str(os.getpid()):
            return host, "", ""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return host, boot, str(Path("/proc/self/ns/pid").stat().st_ino)
    except (OSError, ValueError):
        return host, "", ""


def _process(pid: str) -> tuple[str, str] | None:
    """State and start time of a process; None if there is none, empty if it cannot be told."""
    try:
        text = Path("/proc", pid, "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return "", ""
    # The name of the program stands in brackets and may hold anything, even brackets.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        return "", ""
    state, threads, start = fields[0], fields[17], fields[19]
    # A process whose first thread has ended looks like a zombie while other threads go on.
    alive = state in _DEAD and _is_number(threads) and int(threads) > 1
    return ("R" if alive else state), start


def _answers(pid: int) -> bool:
    """Whether a pid that /proc does not show may be in use all the same (`hidepid` hides others)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < len(text) <= 20 and text.strip("0") != ""
