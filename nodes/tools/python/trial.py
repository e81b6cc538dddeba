"""Try a sandbox out before it is trusted: six probes, judged from outside.

A version number says little about what a kernel, a container or a profile allows; a canary does.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from flowkit.nodes.tools.python.sandbox import Job, Limits, Sandbox, SandboxUnavailable, Stop
from flowkit.nodes.tools.python.view import ENVIRONMENT

_LIMITS: Final = Limits(time_s=10, cpu_s=10, processes=12)
_FORKS: Final = 40
_TIME_S: Final = 0.3

_LOOK: Final = """
import os, socket
def tried(what):
    try:
        return repr(what())
    except BaseException as error:
        return type(error).__name__
def reach(family, address):
    with socket.socket(family) as each:
        each.settimeout(2)
        each.connect(address)
        each.sendall(b"reached")
tried(lambda: reach(socket.AF_INET, ("127.0.0.1", {port})))
tried(lambda: reach(socket.AF_UNIX, {unix!r}))
print(tried(lambda: open({canary!r}).read()))
tried(lambda: open({canary!r}, "a").write("changed"))
tried(lambda: open({beside!r}, "w").write("written"))
print(dict(os.environ))
6 * 7
"""

_FORK: Final = f"""
import os, time
made = 0
try:
    for _ in range({_FORKS}):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except BaseException:
    pass
made
"""

_ENDLESS: Final = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except BaseException:
        pass
while True:
    pass
"""


def failed(sandbox: Sandbox) -> Sequence[str]:
    """The names of the probes that the sandbox does not hold; none if it can be trusted."""
    stop = Stop()
    try:
        found = _look(sandbox, stop)
        made = sandbox.run(Job(_FORK, limits=_LIMITS), stop)
        if made.ended == "exit" and int(made.value or "0") > _LIMITS.processes:
            found.append("a limit on processes")
        began = time.monotonic()
        endless = sandbox.run(Job(_ENDLESS, limits=replace(_LIMITS, time_s=_TIME_S)), stop)
        if endless.ended != "time" or time.monotonic() - began > _TIME_S + 8:
            found.append("an end when time is over")
        return found
    except (SandboxUnavailable, ValueError, OSError) as error:
        return [f"a start ({error})"]
    finally:
        stop.close()


def _look(sandbox: Sandbox, stop: Stop) -> list[str]:
    secret = os.urandom(16).hex()
    with tempfile.TemporaryDirectory(prefix="flowkit-trial-") as folder, ExitStack() as open_:
        os.chmod(folder, 0o777)  # so that it is the sandbox that forbids, and not the file's owner
        canary, beside = Path(folder, "canary"), Path(folder, "beside")
        canary.write_text(secret, "ascii")
        canary.chmod(0o666)
        unix = str(Path(folder, "s"))
        doors = [
            open_.enter_context(_door(socket.AF_INET, ("127.0.0.1", 0))),
            open_.enter_context(_door(socket.AF_UNIX, unix)),
        ]
        port = doors[0].getsockname()[1] if doors[0] else 9
        code = _LOOK.format(port=port, unix=unix, canary=str(canary), beside=str(beside))
        outcome = sandbox.run(Job(code, limits=_LIMITS), stop)
        seen = outcome.stdout + outcome.stderr + outcome.value
        ours = {
            value
            for name, value in os.environ.items()
            if len(value) > 8 and ENVIRONMENT.get(name) != value
        }
        verdicts = {
            "a start": outcome.value == "42",
            "no connection": not any(_entered(door) for door in doors if door),
            "no reading of the host's files": secret not in seen,
            "no writing outside": not beside.exists() and canary.read_text("ascii") == secret,
            "no sight of the host's environment": not any(repr(value) in seen for value in ours),
        }
    return [name for name, held in verdicts.items() if not held]


@contextmanager
def _door(family: int, address: tuple[str, int] | str) -> Generator[socket.socket | None]:
    """A socket that listens, or None where that cannot be had."""
    with socket.socket(family) as door:
        door.setblocking(False)
        try:
            door.bind(address)
            door.listen()
        except OSError:
            yield None
        else:
            if isinstance(address, str):
                os.chmod(address, 0o777)
            yield door


def _entered(door: socket.socket) -> bool:
    with suppress(BlockingIOError):
        door.accept()[0].close()
        return True
    return False


class Choice:
    """The first of some sandboxes that is there and holds. Asked from any thread; tried once."""

    def __init__(self, sandboxes: Sequence[Sandbox]) -> None:
        self._sandboxes = sandboxes
        self._lock = threading.Lock()
        self._chosen: Sandbox | None = None
        self._broken: dict[str, str] = {}

    def get(self) -> Sandbox:
        """The sandbox to use.

        One that was chosen stays chosen: when it goes away in the middle, jobs are refused, since
        nobody asked for another.

        Raises:
            SandboxUnavailable: none can be had; the message says why, for each, and what to install.
        """
        with self._lock:
            if self._chosen is None:
                self._chosen = self._choose()
            return self._chosen

    def _choose(self) -> Sandbox:
        reasons: list[str] = []
        for sandbox in self._sandboxes:
            why = self._broken.get(sandbox.name) or sandbox.why_not()
            if not why:
                lost = failed(sandbox)
                if not lost:
                    return sandbox
                why = f"tried out here, it does not give {', '.join(lost)}"
                self._broken[sandbox.name] = why
            reasons.append(f"{sandbox.name}: {why}")
        raise SandboxUnavailable(
            "No sandbox can be had here, so the code was not run. Install bubblewrap (apt install "
            "bubblewrap, or pip install 'flowkit-agents[sandbox]'), or 'flowkit-agents[wasm]' where that "
            f"cannot be; docs/sandbox.md has the rest. {'; '.join(reasons) or 'none was given'}."
        )
