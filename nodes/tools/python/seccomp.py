"""The filter of system calls, as a classic BPF program written by hand: no library is needed.

A list of what is refused, not of what is allowed: numpy and its like change what they call from one
release to the next. What is newer than this list does not exist for the code (ENOSYS), so that a call
which nobody here has judged cannot be made. Layout and rules: linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ABOVE: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERROR: Final = 0x00050000

_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_NEWEST: Final = 456  # futex_requeue, Linux 6.7
_X32_BIT: Final = 0x40000000

NAMESPACES: Final = 0x7E020080
"""The CLONE_NEW* flags: time, mount, cgroup, uts, ipc, user, pid, net."""

TERMINAL_INPUT: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into a terminal."""


class Calls(NamedTuple):
    """The numbers of an architecture."""

    audit: int
    clone: int
    clone3: int
    ioctl: int
    refused: Mapping[str, int]


_COMMON: Final = MappingProxyType(
    {
        "pidfd_send_signal": 424,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "fsconfig": 431,
        "fsmount": 432,
        "fspick": 433,
        "pidfd_open": 434,
        "pidfd_getfd": 438,
        "process_madvise": 440,
        "mount_setattr": 442,
        "quotactl_fd": 443,
        "memfd_secret": 447,
        "process_mrelease": 448,
    }
)

# What reaches beyond the process: sockets, other processes, namespaces, mounts, the kernel, its keys
# and clocks; memory that no limit counts (memfd, System V); and what is a user's and not a process's
# to use up (inotify, aio, message queues).
_X86_64: Final = Calls(
    audit=0xC000003E,
    clone=56,
    clone3=435,
    ioctl=16,
    refused=MappingProxyType(
        {
            **_COMMON,
            "shmget": 29,
            "shmat": 30,
            "shmctl": 31,
            "socket": 41,
            "connect": 42,
            "bind": 49,
            "listen": 50,
            "semget": 64,
            "msgget": 68,
            "ptrace": 101,
            "syslog": 103,
            "personality": 135,
            "modify_ldt": 154,
            "pivot_root": 155,
            "adjtimex": 159,
            "chroot": 161,
            "acct": 163,
            "settimeofday": 164,
            "mount": 165,
            "umount2": 166,
            "swapon": 167,
            "swapoff": 168,
            "reboot": 169,
            "sethostname": 170,
            "setdomainname": 171,
            "iopl": 172,
            "ioperm": 173,
            "init_module": 175,
            "delete_module": 176,
            "quotactl": 179,
            "io_setup": 206,
            "lookup_dcookie": 212,
            "clock_settime": 227,
            "mq_open": 240,
            "kexec_load": 246,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "inotify_init": 253,
            "migrate_pages": 256,
            "unshare": 272,
            "move_pages": 279,
            "inotify_init1": 294,
            "perf_event_open": 298,
            "fanotify_init": 300,
            "name_to_handle_at": 303,
            "open_by_handle_at": 304,
            "clock_adjtime": 305,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "kcmp": 312,
            "finit_module": 313,
            "memfd_create": 319,
            "kexec_file_load": 320,
            "bpf": 321,
            "userfaultfd": 323,
        }
    ),
)

_AARCH64: Final = Calls(
    audit=0xC00000B7,
    clone=220,
    clone3=435,
    ioctl=29,
    refused=MappingProxyType(
        {
            **_COMMON,
            "io_setup": 0,
            "lookup_dcookie": 18,
            "inotify_init1": 26,
            "umount2": 39,
            "mount": 40,
            "pivot_root": 41,
            "chroot": 51,
            "quotactl": 60,
            "acct": 89,
            "personality": 92,
            "unshare": 97,
            "kexec_load": 104,
            "init_module": 105,
            "delete_module": 106,
            "clock_settime": 112,
            "syslog": 116,
            "ptrace": 117,
            "reboot": 142,
            "sethostname": 161,
            "setdomainname": 162,
            "settimeofday": 170,
            "adjtimex": 171,
            "mq_open": 180,
            "msgget": 186,
            "semget": 190,
            "shmget": 194,
            "shmctl": 195,
            "shmat": 196,
            "socket": 198,
            "bind": 200,
            "listen": 201,
            "connect": 203,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "swapon": 224,
            "swapoff": 225,
            "migrate_pages": 238,
            "move_pages": 239,
            "perf_event_open": 241,
            "fanotify_init": 262,
            "name_to_handle_at": 264,
            "open_by_handle_at": 265,
            "clock_adjtime": 266,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "kcmp": 272,
            "finit_module": 273,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
            "kexec_file_load": 294,
        }
    ),
)

ARCHITECTURES: Final[Mapping[str, Calls]] = MappingProxyType(
    {"x86_64": _X86_64, "aarch64": _AARCH64}
)


def calls() -> Calls | None:
    """The numbers of this machine, or None if they are not known here."""
    return ARCHITECTURES.get(platform.machine())


def program(calls: Calls) -> bytes:
    """The filter, as an array of `struct sock_filter`."""
    refuse, absent = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, calls.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # A number with the x32 bit is above all others, and so is absent.
        *_when(_ABOVE, _NEWEST, absent),
        # Its flags are behind a pointer, which a filter cannot follow; the C library then takes clone.
        *_when(_EQUAL, calls.clone3, absent),
    ]
    for number in sorted(set(calls.refused.values())):
        lines += _when(_EQUAL, number, refuse)
    lines += [
        (_EQUAL, 0, 3, calls.clone),
        (_LOAD, 0, 0, _ARGUMENT),
        *_when(_ANY_BIT, NAMESPACES, refuse),
        # The last load may have been an argument, so the number is loaded again.
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 1 + 2 * len(TERMINAL_INPUT), calls.ioctl),
        (_LOAD, 0, 0, _ARGUMENT + 8),
    ]
    for request in TERMINAL_INPUT:
        lines += _when(_EQUAL, request, refuse)
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _when(test: int, operand: int, answer: int) -> list[tuple[int, int, int, int]]:
    return [(test, 0, 1, operand), (_RETURN, 0, 0, answer)]
