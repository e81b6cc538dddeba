"""A program that shuts itself in and becomes another: namespaces, a new root, Landlock, a seccomp filter.

For machines without bubblewrap. It stands alone and needs the standard library only. A program of its
own, because a process with threads cannot do this between fork and exec (`preexec_fn`).

Arguments, as bubblewrap has them: words of `ORDER` with their values, then "--" and the other program.
Anything that fails ends it, with 71, before that program is begun.

Its imports are a part of what each call costs: `json`, `signal`, `argparse` would double it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER = 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
PR_CAPBSET_DROP = 24
AT_RECURSIVE = 0x8000
MOUNT_SETATTR = 442
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILES = 1 | 4 | 8  # execute, read a file, list a folder
CAPABILITY_VERSION = 0x20080522

SIGKILL = 9

ORDER = {"show": 2, "link": 2, "set": 2, "folder": 1, "device": 1, "writable": 1, "capability": 1}
"""What may come many times, and how many values it has; anything else is a number."""

libc = ctypes.CDLL(None, use_errno=True)


def read_order(words: list[str]) -> dict[str, Any]:
    order: dict[str, Any] = {word: [] for word in ORDER}
    at = 0
    while words[at] != "--":
        word, count = words[at], ORDER.get(words[at])
        if count is None:
            order[word] = int(words[at + 1])
        else:
            values = words[at + 1 : at + 1 + count]
            order[word].append(tuple(values) if count > 1 else values[0])
        at += 1 + (count or 1)
    order["command"] = words[at + 1 :]
    return order


def main() -> int:
    order = read_order(sys.argv[1:])
    parent = os.getpid()
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != order["host"]:  # it has died already
        return 71
    try:
        unshare(order.get("uid"))
        child = os.fork()
        if child == 0:
            init(order, parent)
    except OSError as error:
        sys.stderr.write(f"{error.filename or ''}: {error.strerror}\n")
        return 71
    _, status = os.waitpid(child, 0)
    return abs(os.waitstatus_to_exitcode(status))


def check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(uid: int | None) -> None:
    """Leave the machine's namespaces; without a user id to become, in a user namespace of its own."""
    flags = (
        CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    )
    user, group = os.geteuid(), os.getegid()
    if uid is None:
        flags |= CLONE_NEWUSER
    check(libc.unshare(flags), "unshare")
    if uid is None:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"65534 {user} 1"),
            ("gid_map", f"65534 {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    libc.sethostname(b"sandbox", 7)


def init(order: dict[str, Any], parent: int) -> None:
    """The first process of the new process namespace: prepares the root, then waits for its child."""
    status = 71
    try:
        check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
        check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
        if os.getppid() != 0 and os.getppid() != parent:
            os._exit(71)
        new_root(order)
        child = os.fork()
        if child == 0:
            become(order)
        for number in (0, 1, 2, order["answer"]):
            os.close(number)  # who listens must hear the end of the others, not of this process
        while True:
            gone, found = os.wait()
            if gone == child:
                status = abs(os.waitstatus_to_exitcode(found))
                break
    except OSError as error:
        os.write(2, f"{error.filename or ''}: {error.strerror}\n".encode())
    finally:
        os._exit(status)


# ---- the root ----


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    check(
        libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        ),
        f"mount {target}",
    )


def new_root(order: dict[str, Any]) -> None:
    """Build a root in memory, show in it what may be seen, and leave the old one."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    base = "/tmp" if os.path.isdir("/tmp") else "/run"
    mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    os.chdir(base)
    os.mkdir("old")
    os.mkdir("new")
    mount("new", "new", None, MS_BIND)
    check(libc.pivot_root(b".", b"old"), "pivot_root")
    os.chdir("/")
    for folder in order["folder"]:
        os.makedirs(f"/new{folder}", 0o755, exist_ok=True)
    for source, target in order["show"]:
        bind(source, target, read_only=True)
    for link, path in order["link"]:
        os.symlink(link, f"/new{path}")
    for device in order["device"]:
        bind(device, device, read_only=False)
    size = f"size={order['disk_bytes']},nr_inodes={order['entries'] * 2},mode=0777"
    for folder in order["writable"]:
        os.makedirs(f"/new{folder}", 0o755, exist_ok=True)
        mount("tmpfs", f"/new{folder}", "tmpfs", MS_NOSUID | MS_NODEV, size)
    check(libc.umount2(b"/old", MNT_DETACH), "umount")
    os.chdir("/new")
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(order["writable"][0])


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show a folder or file of the old root in the new one, with all that is mounted below it."""
    inside = f"/new{target}"
    if os.path.isdir(f"/old{source}"):
        os.makedirs(inside, 0o755, exist_ok=True)
    else:
        with open(inside, "w"):
            pass
    mount(f"/old{source}", inside, None, MS_BIND | MS_REC)
    forbid = 1 | 2 | 4 if read_only else 2 | 8  # rdonly nosuid nodev; a device: nosuid noexec
    attributes = struct.pack("=QQQQ", forbid, 0, 0, 0)
    check(
        libc.syscall(
            MOUNT_SETATTR, -100, inside.encode(), AT_RECURSIVE, attributes, len(attributes)
        ),
        f"mount_setattr {target}",
    )


# ---- the process ----


def become(order: dict[str, Any]) -> None:
    """Take the last rights off this process, and become the other program."""
    try:
        os.setsid()
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        kept = {int(number) for number in order["capability"]}
        drop_bounding(kept)
        landlock(order)
        if not kept:
            drop_all()
        seccomp(order["filter"])
        os.close(order["filter"])
        os.set_inheritable(order["answer"], True)
        os.execve(order["command"][0], order["command"], dict(order["set"]))
    except OSError as error:
        os.write(2, f"{error.filename or ''}: {error.strerror}\n".encode())
    finally:
        os._exit(71)


def drop_bounding(kept: set[int]) -> None:
    for capability in range(64):
        if capability not in kept:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # beyond the last one it fails


def drop_all() -> None:
    """Give up every capability; the next program would get those of a user namespace's first user."""
    head = struct.pack("=II", CAPABILITY_VERSION, 0)
    check(libc.capset(head, bytes(24)), "capset")


def landlock(order: dict[str, Any]) -> None:
    """A second wall behind the new root: which files, no TCP, no signals and abstract sockets outside."""
    version = check(libc.syscall(LANDLOCK_CREATE, None, 0, 1), "landlock")
    files = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    net = 3 if version >= 4 else 0
    scope = 3 if version >= 6 else 0
    rules = struct.pack("=QQQ", files, net, scope)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = check(libc.syscall(LANDLOCK_CREATE, rules, size, 0), "landlock")
    for _, path in order["show"]:
        allow(ruleset, path, READ_FILES & files)
    for path in order["device"]:
        allow(ruleset, path, (2 | 4 | ((1 << 15) if version >= 5 else 0)) & files)
    for path in order["writable"]:
        allow(ruleset, path, files & ~(1 << 6) & ~(1 << 11))  # no device files
    check(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)


def allow(ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not os.path.isdir(path):
        rights &= 1 | 2 | 4 | (1 << 14) | (1 << 15)  # what a file can have
    rule = struct.pack("=Qi", rights, place)
    check(libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock {path}")
    os.close(place)


def seccomp(filter: int) -> None:
    program = os.read(filter, 65536)
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
    check(libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0), "seccomp")


if __name__ == "__main__":
    sys.exit(main())
