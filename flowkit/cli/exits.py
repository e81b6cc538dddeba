"""Exit codes, and how an error becomes one line and one of them.

0  success                       75  try again later: the run is driven elsewhere, the database
1  the run failed                    is locked, the model was overloaded
2  usage: bad input, bad target  78  configuration: unusable or newer database, RunConflict,
3  the run waits for somebody        changed workflow, a model that is not completely configured
4  not found                    124  deadline      130  SIGINT      143  SIGTERM
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator
from functools import wraps
from typing import NoReturn, ParamSpec

import typer

from flowkit.cli.text import clean
from flowkit.errors import (
    DeadlineExceeded,
    DeclarationError,
    FlowkitError,
    LeaseLost,
    ResumeError,
    RunBusy,
    RunConflict,
    RunError,
    RunNotFound,
    StepFailed,
    StoreError,
    StoreUnusable,
    ValueRefused,
    VersionMismatch,
)

P = ParamSpec("P")

SUCCESS = 0
FAILED = 1
USAGE = 2
WAITING = 3
NOT_FOUND = 4
TRY_LATER = 75
CONFIGURATION = 78
DEADLINE = 124
INTERRUPTED = 130
BROKEN_PIPE = 141

TRANSIENT = frozenset({"ModelUnavailable", "RateLimited"})
"""Errors of a model that may be gone at the next try."""

# The first class that fits decides, so special ones stand before general ones.
_CODES: tuple[tuple[type[FlowkitError], int], ...] = (
    (DeadlineExceeded, DEADLINE),
    (RunError, FAILED),
    (RunNotFound, NOT_FOUND),
    (RunBusy, TRY_LATER),
    (LeaseLost, TRY_LATER),
    (VersionMismatch, CONFIGURATION),
    (RunConflict, CONFIGURATION),
    (ResumeError, USAGE),
    (DeclarationError, USAGE),
    (ValueRefused, USAGE),
    (StoreError, CONFIGURATION),
)


class Problem(FlowkitError):
    """What the person at the command line should know, and the exit code that goes with it."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: FlowkitError) -> int:
    """The exit code of an error."""
    if isinstance(error, Problem):
        return error.code
    if isinstance(error, StoreUnusable) and "locked" in str(error):
        return TRY_LATER
    if isinstance(error, StepFailed) and error.error_type in TRANSIENT:
        return TRY_LATER
    return next((code for kind, code in _CODES if isinstance(error, kind)), CONFIGURATION)


def say(text: str) -> None:
    """One line to the person, on stderr."""
    print(f"flowkit: {clean(text)}", file=sys.stderr, flush=True)


def complain(error: FlowkitError) -> int:
    """Tell what is wrong; the exit code. A message of several lines keeps them."""
    for line in str(error).splitlines() or [type(error).__name__]:
        say(line)
    return code_of(error)


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Make a function a command: what it returns, or raises, becomes the exit code."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        leave(_code(function, *args, **kwargs))

    return run


def _code(function: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    try:
        with _single():
            _set_up_logging()
            code = function(*args, **kwargs) or SUCCESS
            sys.stdout.flush()
            return code
    except FlowkitError as error:
        return complain(error)
    except KeyboardInterrupt:
        say("interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; Python's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _set_up_logging() -> None:
    """FLOWKIT_LOG_LEVEL sends the library's log to stderr; else its messages are the commands' own."""
    logger = logging.getLogger("flowkit")
    level = os.environ.get("FLOWKIT_LOG_LEVEL", "").strip().upper()
    if not level:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        return
    if level not in logging.getLevelNamesMapping():
        text = f"FLOWKIT_LOG_LEVEL={level}: use DEBUG, INFO, WARNING or ERROR."
        raise Problem(text, CONFIGURATION)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)


@contextlib.contextmanager
def _single() -> Generator[None]:
    """Raise the first error of a task group as itself: one line is what a person can use."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says most: flowkit's own before others, however deep."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop()
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, FlowkitError)), leaves[0])


def leave(code: int) -> NoReturn:
    """End the process; at once if a node's thread would keep it alive."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(not thread.daemon for thread in others):
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)
