"""One attempt of one node, from its inputs to the fact that tells how it went.

This is the one place that catches `Exception`: whatever a node raises becomes data here, and the
recorded fact says what follows. Cancellation passes through.
"""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

import flowkit.events as ev
from flowkit.errors import Fatal, OutcomeUnknown, PlanError, Reject, Replan, Retry, StepFailed
from flowkit.events import Error
from flowkit.graft import RepeatedPlan, graft
from flowkit.node import AnyNode, Context
from flowkit.plan import Findings, Plan
from flowkit.ports import World
from flowkit.slot import Slot
from flowkit.values import Value

T = TypeVar("T")

REPEATS_MAX = 2
"""How often a probe's word alone has an effect begun again; then somebody must decide."""

MESSAGE_MAX = 4000
"""Characters of an error's message that are kept."""


@dataclass(slots=True)
class ThreadMark:
    """Whether a node's thread has ended; a timed-out one is not tried again before."""

    running: bool = False


@dataclass(slots=True, eq=False)
class Try:
    """One attempt to make: the node, its place, its inputs, and what the outcome is reckoned from."""

    node: AnyNode
    slot: Slot
    context: Context
    arguments: Callable[[Slot, AnyNode], Awaitable[Sequence[Any]]]
    input_hash: str
    world: World
    threads: anyio.CapacityLimiter
    mark: ThreadMark
    moves_on: tuple[type[BaseException], ...]
    returned: bool = False
    """The node has done its work; what goes wrong after that is its value's fault."""


async def attempt(job: Try) -> ev.Payload:
    """Run the node once; the fact that tells how it went."""
    began = anyio.current_time()
    try:
        made = await _outcome(job)
    except BaseException as error:  # whatever a node raises
        if _is_ours(error):
            raise
        return failed(job, error, anyio.current_time() - began)
    return made(anyio.current_time() - began)


def _is_ours(error: BaseException) -> bool:
    """Whether an error must pass: Ctrl-C, a closed loop, our cancellation.

    What is left is a node's own failure: any `Exception`, `SystemExit`, a panic of an extension module,
    or somebody else's cancellation that the node let escape.
    """
    if isinstance(error, Exception | SystemExit):
        return False  # also when it comes while the node cleans up: it is not the service's end
    if anyio.current_effective_deadline() == -math.inf:
        return True  # a scope of ours was cancelled
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt | GeneratorExit)


Made = Callable[[float], ev.Payload]


async def _outcome(job: Try) -> Made:
    args = await job.arguments(job.slot, job.node)
    match job.node.kind:
        case "verifier":
            try:
                await call(job.node, job.context, args, job.threads, job.mark)
            except Reject as verdict:
                feedback = _clean(verdict.feedback)
                return lambda took: ev.Rejected(job.input_hash, feedback, took)
            return lambda took: ev.Accepted(job.input_hash, took)
        case "planner":
            return await _plan(job, args)
        case "probe":
            result = await call(job.node, job.context, args, job.threads, job.mark)
            if result is None and job.slot.tries >= REPEATS_MAX:
                raise StepFailed(f"it was begun {REPEATS_MAX + 1} times, and never happened")
            found = None if result is None else dump(job.node, result)
            return lambda took: ev.Decided("repeat" if found is None else "done", found)
        case _:
            result = await call(job.node, job.context, args, job.threads, job.mark)
            job.returned = True
            value = dump(job.node, result)
            return lambda took: ev.StepDone(job.input_hash, value, took)


async def _plan(job: Try, args: Sequence[Any]) -> Made:
    """Ask a planner; a bad plan goes back to it, with the reason, `repairs_max` times."""
    if job.context.last_turn and not job.node.answers:  # it could only plan: its findings are it
        return lambda took: ev.Planned(job.input_hash, duration_s=took)
    repeated = False
    for repair in range(job.node.limits.repairs_max + 1):
        answer = await call(job.node, job.context, args, job.threads, job.mark)
        if not isinstance(answer, Plan):
            value = dump(job.node, answer)
            return lambda took: ev.StepDone(job.input_hash, value, took)
        plan = answer
        try:
            if job.context.last_turn:
                raise PlanError("the budget is used up: answer with what there is, plan nothing.")
            steps = graft(job.node, plan, job.slot)
        except PlanError as error:
            again = isinstance(error, RepeatedPlan)
            if repair == job.node.limits.repairs_max or (again and repeated):
                raise
            repeated = repeated or again
            job.context.feedback = (*job.context.feedback, str(error))
            continue
        calls = tuple(plan.calls)
        return lambda took: ev.Planned(
            job.input_hash, steps, plan.again, job.slot.answered, took, calls
        )
    raise AssertionError("unreachable: the loop returns or raises")


async def guarded(work: Awaitable[T]) -> T | Exception:
    """Do the work of one run; what breaks it is returned, so that other runs go on."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001  (a bug, or a store that fails: the engine tells of it)
        return _innermost(error)


def _innermost(error: Exception) -> Exception:
    """What a task group wrapped."""
    while isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        first, *others = group.exceptions
        if others:
            return group
        error = first
    return error


async def thread_ended(mark: ThreadMark) -> None:
    """Until the thread of a timed-out attempt has ended; it is no part of the next attempt's time."""
    while mark.running:  # noqa: ASYNC110  (a thread can set no event here)
        await anyio.sleep(0.05)


async def call(
    node: AnyNode,
    context: Context,
    args: Sequence[Any],
    threads: anyio.CapacityLimiter,
    mark: ThreadMark,
) -> Any:
    """Call a node: its coroutine here, its plain function in a worker thread."""
    function = node.threaded
    if function is None:
        return await node.run(context, *args)
    begun = threading.Lock()  # taken once: by the thread that begins, or by who gives it up before

    def work() -> Any:
        if not begun.acquire(blocking=False):
            return None
        try:
            return function(context, *args)
        finally:
            mark.running = False

    mark.running = True
    try:
        return await anyio.to_thread.run_sync(work, limiter=threads, abandon_on_cancel=True)
    finally:
        if begun.acquire(blocking=False):
            mark.running = False


async def answer(
    node: AnyNode,
    context: Context,
    args: Sequence[Any],
    threads: anyio.CapacityLimiter,
    world: World,
    room: Callable[[AnyNode], AbstractAsyncContextManager[None]],
) -> ev.ToolAnswered:
    """Call a tool inside another node, with its retries and alternatives, all in memory."""
    began = anyio.current_time()
    error = Error("StepFailed", "no alternative was tried")
    moves = True
    for each in node.alternatives:
        if not moves:
            break
        mark = ThreadMark()
        for tried in range(1, each.policy.retries + 2):
            try:
                async with room(each):
                    await thread_ended(mark)
                    with anyio.fail_after(each.policy.timeout_s):
                        result = await call(each, context, args, threads, mark)
                took = anyio.current_time() - began
                return ev.ToolAnswered("", 0, each.name, dump(each, result), duration_s=took)
            except Fatal:
                raise
            except (Exception, SystemExit) as problem:  # noqa: BLE001  (as above)
                error, moves = describe(problem), isinstance(problem, node.moves_on)
            if tried <= each.policy.retries:
                await anyio.sleep(each.policy.delay_s(tried, world.draw()))
    took = anyio.current_time() - began
    return ev.ToolAnswered("", 0, node.name, error=error, duration_s=took)


def dump(node: AnyNode, result: Any) -> Value:
    """The result as it is stored; raises pydantic's error or `ValueRefused` if it does not fit."""
    codec = node.codec()
    if codec is None:
        kind = "Findings" if isinstance(result, Findings) else type(result).__name__
        raise TypeError(f"{node.name!r} only plans; it must return a Plan, not {kind}")
    return codec.dump(codec.check(result))


def failed(job: Try, error: BaseException, took: float) -> ev.Payload:
    """What follows a failed attempt: decided once, here, and recorded."""
    policy, slot = job.node.policy, job.slot
    stored = describe(error)
    if job.node.kind == "probe":
        return ev.OutcomeUnknown(f"probe {job.node.name}: {stored}")
    if job.returned and policy.effect == "once":
        return ev.OutcomeUnknown(f"it has happened, but what it gave cannot be stored: {stored}")
    if isinstance(error, OutcomeUnknown) and policy.effect == "once":
        return ev.OutcomeUnknown(stored.message)
    if isinstance(error, Fatal):
        return ev.AttemptFailed(stored, "fatal", duration_s=took)
    if isinstance(error, Replan):
        alone = slot.planner() is None
        return ev.AttemptFailed(stored, "fail" if alone else "replan", duration_s=took)
    if slot.tries < policy.retries:
        wait = policy.delay_s(slot.tries + 1, job.world.draw())
        if isinstance(error, Retry) and error.after_s is not None:
            wait = max(error.after_s, 0.0)
        return ev.AttemptFailed(stored, "retry", job.world.now() + wait, took)
    last = slot.alternative + 1 == len(slot.step.nodes)
    if not last and isinstance(error, job.moves_on):
        return ev.AttemptFailed(stored, "next", duration_s=took)
    return ev.AttemptFailed(stored, "fail", duration_s=took)


def describe(error: BaseException) -> Error:
    """An error as it is stored: no objects, no locals, text that any database takes."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (an error that cannot even be shown is still the node's)
        text = "an error whose text cannot be made"
    text = "\n".join(line for line in text.split("\n") if "errors.pydantic.dev" not in line)
    message = _clean(text) or (type(error).__doc__ or "").strip().split("\n")[0]
    return Error(type(error).__name__, message[:MESSAGE_MAX], where)


def _clean(text: str) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode()
