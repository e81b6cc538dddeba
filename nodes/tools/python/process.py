"""A job's processes from start to end, in one thread: fed, listened to within bounds, killed as a group.

A thread and not the event loop: the kernel ends a sandbox with the *thread* that started it
(PR_SET_PDEATHSIG), and a loop may lend its threads for a moment only.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from flowkit.nodes.tools.python.cgroup import Cgroup
from flowkit.nodes.tools.python.sandbox import Job, Limits, Outcome, SandboxUnavailable, Stop
from flowkit.nodes.tools.python.view import View, strange_uid
from flowkit.nodes.tools.python.wire import HEAD_BYTES_MAX, READY, Answered, order_of, outcome_of

SLACK_S: Final = 10.0
"""What starting and reporting may take beside the code's own time, which the guest program watches."""

_PIECE: Final = 65536
_LOOK_S: Final = 0.1

Command = Callable[[View, Limits, int | None, int, int], Sequence[str]]
"""From what is shown, what may be used, the user id to become, the descriptor of the filter, and that of the answer."""


def run_confined(
    name: str, command: Command, view: View, filter: bytes, job: Job, stop: Stop
) -> Outcome:
    """Run a job under a command that confines it; when this returns, all of it is gone.

    Raises:
        SandboxUnavailable: the command could not be started, or could not begin the job.
    """
    uid = strange_uid()
    filter_read, filter_write = os.pipe()
    answer_read, answer_write = os.pipe()
    with Cgroup(job.limits) as group:
        try:
            os.write(filter_write, filter)  # far below what a pipe holds
            os.close(filter_write)
            arguments = group.within(command(view, job.limits, uid, filter_read, answer_write))
            try:
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(filter_read, answer_write),
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxUnavailable(
                    f"the sandbox {name} has gone: {error}. The code was not run; install it again "
                    f"(`docs/sandbox.md`)."
                ) from error
            finally:
                os.close(filter_read)
                os.close(answer_write)
            answered = Talk(process, answer_read, job.limits, stop, order_of(job, view, uid)).hold()
        finally:
            os.close(answer_read)
    return outcome_of(answered, job.limits, name)


@dataclass(slots=True)
class Talk:
    """The conversation with the processes of one job. `full` is asked now and then: is it too much?"""

    process: subprocess.Popen[bytes]
    answer: int
    limits: Limits
    stop: Stop
    order: bytes
    slack_s: float = SLACK_S
    full: Callable[[], bool] | None = None

    def hold(self) -> Answered:
        """Feed and listen until all have closed their ends, or a limit is reached."""
        answered = Answered()
        with selectors.DefaultSelector() as waits, self.process:
            try:
                self._register(waits, answered)
                until = time.monotonic() + self.limits.time_s + self.slack_s
                while not answered.ended and self._open(waits):
                    left = until - time.monotonic()
                    if left <= 0:
                        answered.ended = "time"
                    self._step(waits, answered, max(min(left, _LOOK_S) if self.full else left, 0.0))
            finally:
                self._kill(waits, answered)
        return answered

    def _register(self, waits: selectors.BaseSelector, answered: Answered) -> None:
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        os.set_blocking(self.process.stdin.fileno(), False)
        waits.register(self.process.stdin, selectors.EVENT_WRITE)
        waits.register(self.process.stdout, selectors.EVENT_READ, answered.stdout)
        waits.register(self.process.stderr, selectors.EVENT_READ, answered.stderr)
        waits.register(self.answer, selectors.EVENT_READ, answered.channel)
        waits.register(self.stop, selectors.EVENT_READ)

    @staticmethod
    def _open(waits: selectors.BaseSelector) -> bool:
        return any(isinstance(key.data, bytearray) for key in waits.get_map().values())

    def _step(self, waits: selectors.BaseSelector, answered: Answered, timeout_s: float) -> None:
        for key, _ in waits.select(timeout_s):
            if key.fileobj is self.stop:
                answered.ended = answered.ended or "stopped"
                waits.unregister(self.stop)
            elif key.fileobj is self.process.stdin:
                self._feed(waits)
            else:
                piece = os.read(key.fd, _PIECE)
                if piece:
                    key.data.extend(piece)
                else:
                    waits.unregister(key.fileobj)
        limits = self.limits
        if self.full and self.full():
            answered.ended = answered.ended or "files"
        if len(answered.stdout) + len(answered.stderr) > limits.output_bytes:
            answered.ended = answered.ended or "output"
        if len(answered.channel) > len(READY) + HEAD_BYTES_MAX + limits.artifact_bytes:
            answered.ended = answered.ended or "output"

    def _feed(self, waits: selectors.BaseSelector) -> None:
        assert self.process.stdin
        try:
            self.order = self.order[os.write(self.process.stdin.fileno(), self.order[:_PIECE]) :]
        except BrokenPipeError:
            self.order = b""
        if not self.order:
            waits.unregister(self.process.stdin)
            self.process.stdin.close()

    def _kill(self, waits: selectors.BaseSelector, answered: Answered) -> None:
        """End what is left. With the first process its namespace ends, and all that is in it."""
        with suppress(ProcessLookupError):  # gone by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        until = time.monotonic() + SLACK_S
        # Once the last end is closed, nobody is left to hold it.
        while self._open(waits) and (left := until - time.monotonic()) > 0:
            for key, _ in waits.select(left):
                if not isinstance(key.data, bytearray) or not os.read(key.fd, _PIECE):
                    waits.unregister(key.fileobj)
