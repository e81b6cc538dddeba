"""Runs the table of probes against one sandbox, in private namespaces only; prints a JSON line for each.

    python -m tests.fault.sandbox.inside SANDBOX [--control] [--smoke]

It refuses to start where it would see the machine's processes or network.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flowkit.nodes.tools.python import (
    Bubblewrap,
    Job,
    Launcher,
    Limits,
    Outcome,
    Sandbox,
    SandboxUnavailable,
    Stop,
    Wasm,
)
from flowkit.nodes.tools.python.cgroup import Cgroup
from flowkit.nodes.tools.python.seccomp import calls
from tests.fault.sandbox.probes import PRELUDE, PROBES, SMOKE, Probe

LIMITS = Limits(time_s=20, cpu_s=15, open_files=128)
PYTHON = os.environ.get("FLOWKIT_TEST_WASM_PYTHON")
SANDBOXES: dict[str, Sandbox] = {
    "bubblewrap": Bubblewrap(),
    "launcher": Launcher(),
    "wasm": Wasm(python=Path(PYTHON) if PYTHON else None),
}
ABSENT = ("AttributeError", "ImportError", "ModuleNotFoundError")
METADATA = "169.254.169.254"


def alone() -> str:
    """Why this is not a private place, or ""."""
    if os.getpid() != 1:
        return "this is not the first process of a process namespace"
    found = {name for _, name in socket.if_nameindex()}
    if not found <= {"lo"} | {
        name for name in found if re.match(r"(tunl|sit|ip6|gre|erspan|ip_)", name)
    }:
        return f"this network has {sorted(found)}"
    return ""


def bring_up() -> bool:
    """Loopback, and the address of the clouds' metadata service on it; needs to be root here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, suppress(OSError):
        name = struct.pack("16sh", b"lo", 0x1 | 0x40)
        fcntl.ioctl(control, 0x8914, name)
        fcntl.ioctl(
            control,
            0x8916,
            struct.pack("16sH2s4s8x", b"lo:1", socket.AF_INET, b"", socket.inet_aton(METADATA)),
        )
        return True
    return False


@dataclass
class World:
    """What could be touched, and whether it was."""

    folder: Path
    secret: str
    doors: list[socket.socket]
    names: dict[str, Any]
    private: bool
    victim: subprocess.Popen[bytes]

    @classmethod
    def build(cls, open_: ExitStack) -> World:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="flowkit-probes-")))
        folder.chmod(0o777)  # nothing is forbidden here but by the sandbox
        secret = secrets.token_hex(20)
        canary = folder / "canary"
        canary.write_text(secret, "ascii")
        canary.chmod(0o666)
        os.environ["FLOWKIT_CANARY"] = secret
        os.set_inheritable(os.open(canary, os.O_RDONLY), True)  # a careless host
        doors: list[socket.socket] = []
        bring_up()
        # Others use the machine's; this one is private, where it may be had.
        shared = ["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
        private = subprocess.run(shared, check=False, capture_output=True).returncode == 0
        tcp = socket.socket()
        with suppress(OSError):
            tcp.bind(("0.0.0.0", 0))
            tcp.listen()
            doors.append(tcp)
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind(("127.0.0.1", tcp.getsockname()[1]))
            doors.append(udp)
        abstract = f"flowkit-{secrets.token_hex(4)}"
        for address in (str(folder / "s"), f"\0{abstract}"):
            door = socket.socket(socket.AF_UNIX)
            door.bind(address)
            door.listen()
            doors.append(door)
        (folder / "s").chmod(0o777)
        for door in doors:
            door.setblocking(False)
        for _ in range(100):  # so that the victim's number means nobody inside a sandbox
            subprocess.run(["true"], check=True)
        victim = open_.enter_context(subprocess.Popen(["sleep", "3600"]))
        open_.callback(victim.kill)
        numbers = calls()
        assert numbers is not None
        names = {
            "CANARY": str(canary),
            "FOLDER": str(folder),
            "VICTIM": victim.pid,
            "PORT": tcp.getsockname()[1],
            "UNIX": str(folder / "s"),
            "ABSTRACT": abstract,
            "NUMBERS": dict(numbers.refused),
            "CLONE": numbers.clone,
            "MLOCKALL": 151 if numbers.clone == 56 else 230,
        }
        return cls(folder, secret, doors, names, private, victim)

    def code(self, probe: Probe) -> str:
        given = "".join(f"{name} = {value!r}\n" for name, value in self.names.items())
        # A probe without `seen` ends as it stands: the value of its last line may be what it is about.
        tell = "print('\\nSEEN', seen)\n" if "seen" in probe.code else ""
        return f"{given}{PRELUDE}\n{probe.code}\n{tell}"

    def knocked(self) -> bool:
        """Whether anybody came to a door; they are left as they were."""
        came = False
        for door in self.doors:
            with suppress(BlockingIOError):
                if door.type == socket.SOCK_DGRAM:
                    came = bool(door.recv(100)) or came
                else:
                    door.accept()[0].close()
                    came = True
        return came

    def touched(self, outcome: Outcome) -> Iterator[str]:
        """What a probe did outside of its sandbox."""
        if self.knocked():
            yield "a connection came"
        canary = self.folder / "canary"
        if not canary.is_file() or canary.read_text("ascii") != self.secret:
            yield "the canary was changed"
        if canary.stat().st_mode & 0o777 != 0o666:
            yield "the canary's mode was changed"
        if {each.name for each in self.folder.iterdir()} != {"canary", "s"}:
            yield "something was written beside it"
        texts = (outcome.stdout, outcome.stderr, outcome.value, str(outcome.failure))
        secret = self.secret.encode()
        if any(self.secret in text for text in texts) or any(
            secret in content for _, content in outcome.files
        ):
            yield "the secret came out"
        if self.victim.poll() is not None:
            yield "a process of the host's was killed"
        if left := self.processes():
            yield f"processes are left: {left}"
        if self.private and os.listdir("/dev/shm"):
            yield "shared memory is left"
        if socket.gethostname() == "changed":
            yield "the host's name was changed"

    def processes(self) -> list[str]:
        """Who lives in this namespace beside this process, a moment after the end."""
        left: list[str] = []
        for _ in range(100):
            ours = ("1", str(self.victim.pid))
            left = [name for name in os.listdir("/proc") if name.isdigit() and name not in ours]
            for name in left:  # orphans come here, to the first process
                with suppress(ChildProcessError):
                    os.waitpid(int(name), os.WNOHANG)
            if not left:
                return []
            time.sleep(0.02)
        return left


def judge(probe: Probe, outcome: Outcome, world: World, has: set[str]) -> Iterator[str]:
    """What is not as the table wants it."""
    if outcome.failure and outcome.failure.type in ABSENT and "rlimits" not in has:
        yield from world.touched(outcome)  # WebAssembly has no such call to try
        return
    wanted = (probe.filtered if "rlimits" in has else "") or probe.seen
    if outcome.ended not in probe.ended:
        yield f"it ended by {outcome.ended} {outcome.code}, wanted {probe.ended}"
    seen = seen_in(outcome.stdout)
    if seen is None:
        if not probe.failure and probe.seen != r".*" and "nothing" not in probe.seen.split("|"):
            yield f"it saw nothing: {outcome.stderr[-200:]} {outcome.failure}"
    elif not re.fullmatch(wanted, seen, re.DOTALL):
        yield f"it saw {seen[:200]!r}, wanted {wanted!r}"
    if outcome.ended == "exit":
        failure = outcome.failure.type if outcome.failure else ""
        if not re.fullmatch(probe.failure, failure):
            yield f"it failed with {outcome.failure}, wanted {probe.failure!r}"
        if tuple(sorted(name for name, _ in outcome.files)) != probe.kept:
            yield f"kept {[name for name, _ in outcome.files]}, wanted {probe.kept}"
        if probe.skipped is not None and len(outcome.skipped) != probe.skipped:
            yield f"skipped {outcome.skipped}, wanted {probe.skipped}"
    sizes = [len(outcome.stdout), len(outcome.stderr), len(outcome.value)]
    if max(sizes) > LIMITS.text_characters:
        yield f"texts of {sizes} characters"
    yield from world.touched(outcome)


def seen_in(stdout: str) -> str | None:
    found = re.search(r"^SEEN (.*)\Z", stdout, re.DOTALL | re.MULTILINE)
    return found[1].strip() if found else None


def traits(name: str) -> set[str]:
    with Cgroup(LIMITS) as group:
        counted = bool(group.within([]))
    return set() if name == "wasm" else {"rlimits", *(("cgroup",) if counted else ())}


def attack(sandbox: Sandbox, world: World, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    stop = Stop()
    has = traits(sandbox.name)
    with suppress(SandboxUnavailable):  # told below; WebAssembly is compiled before the first job
        sandbox.run(Job("pass", limits=LIMITS), stop)
    for probe in PROBES:
        if (names and probe.name not in names) or not set(probe.only) <= has:
            continue
        limits = replace(LIMITS, **probe.limits)
        began = time.monotonic()
        try:
            outcome = sandbox.run(Job(world.code(probe), limits=limits), stop)
        except SandboxUnavailable as error:
            yield {"probe": probe.name, "problems": [f"unavailable: {error}"]}
            continue
        took = time.monotonic() - began
        problems = list(judge(probe, outcome, world, has))
        if took > limits.time_s + 15:
            problems.append(f"it took {took:.1f} s")
        found = {key: value for key, value in asdict(outcome).items() if key in ("ended", "code")}
        yield {"probe": probe.name, "problems": problems, "took_s": round(took, 3), **found,
               "seen": (seen_in(outcome.stdout) or "")[:100]}  # fmt: skip
    stop.close()


def control(world: World) -> Iterator[dict[str, Any]]:
    """The few harmless ones without a sandbox: they get what the table says they would."""
    for probe in PROBES:
        if not probe.control:
            continue
        with tempfile.TemporaryDirectory() as work:
            done = subprocess.run(
                [sys.executable, "-c", world.code(probe)], cwd=work, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        seen = seen_in(done.stdout) or done.stderr[-200:]
        problems = (
            [] if re.fullmatch(probe.control, seen, re.DOTALL) else [f"it saw {seen[:200]!r}"]
        )
        yield {"probe": probe.name, "problems": problems}
        (world.folder / "beside").unlink(missing_ok=True)
        world.knocked()


def main(arguments: list[str]) -> int:
    if why := alone():
        print(f"not here: {why}", file=sys.stderr)
        return 3
    sandbox = SANDBOXES[arguments[0]]
    with ExitStack() as open_:
        world = World.build(open_)
        names = SMOKE if "--smoke" in arguments else tuple(a for a in arguments[1:] if a[0] != "-")
        found = control(world) if "--control" in arguments else attack(sandbox, world, names)
        for line in found:
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
