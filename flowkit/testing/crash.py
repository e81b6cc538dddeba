"""Crash a workflow everywhere: at each boundary of its journal, in each attempt, at each model request.

A run without faults comes first; its result is what every other run must come to. Then, for each fault, a
run that meets it, is taken up by a new engine (and tried again where it failed), and is compared.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar

import anyio

import flowkit.events as ev
from flowkit.approval import open_questions
from flowkit.chat import ModelAnswer, ModelRequest, OnDelta
from flowkit.dsl import Workflow
from flowkit.engine import Engine
from flowkit.errors import FlowkitError, LeaseLost, ModelUnavailable, RunError
from flowkit.events import Event
from flowkit.graph import check_name
from flowkit.handle import RunHandle
from flowkit.node import Context
from flowkit.policy import Policy
from flowkit.ports import Message, Model, models_of
from flowkit.rewind import fold
from flowkit.state import State
from flowkit.store.memory import MemoryStore
from flowkit.testing.compare import difference, has, more_or_less
from flowkit.testing.lives import Dying, Recording, ended, left_of, until_dead
from flowkit.testing.twin import Attempt, place, twin_of
from flowkit.values import Codec, Value

A = TypeVar("A")
R = TypeVar("R")

Kind = Literal["kill", "lost", "tool", "model"]
KINDS: Final[tuple[Kind, ...]] = ("kill", "lost", "tool", "model")

_AT_ONCE: Final = Policy(retries=5, backoff_s=0.001, backoff_max_s=0.01)


class NoReference(FlowkitError, AssertionError):
    """The run without faults did not end, so there is nothing to compare with."""


class ToolCrashed(ConnectionError):
    """What a tool raises when the harness crashes it."""


@dataclass(frozen=True, slots=True)
class Crash:
    """One fault and what came of it. Attempts are written "step alternative attempt".

    `repeated`: attempts that ran again although their outcome was on disk, or although they happen once,
    which must never be. `again`: attempts that were in flight, and so ran twice, with their idempotency
    key. `decided`: steps with `effect="once"` whose outcome was unknown; the run stopped for a decision,
    as it must, and was told that they were done. `outside`: what is not in the ledger as it is without
    faults.
    `instead`: what took over by declaration (another alternative, or a planner that saw the failure), so
    that another result is no fault.
    """

    kind: Kind
    at: str
    same: bool
    difference: str = ""
    repeated: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    instead: str = ""
    outside: str = ""

    @property
    def violates(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.repeated or self.outside) or not (self.same or self.instead)

    def __str__(self) -> str:
        told = [f"{self.kind} {self.at}:"]
        if self.repeated:
            told.append(f"ran again although they must not: {', '.join(self.repeated)};")
        if self.outside:
            told.append(f"in the ledger {self.outside};")
        told.append("the same result" if self.same else f"another result: {self.difference}")
        return " ".join(told)


@dataclass(frozen=True, slots=True)
class CrashReport:
    """All faults of one workflow. `boundaries`: how many points of its journal it can die at.

    `fails`: how the run fails without any fault; then every other must fail with the same words.
    `unused`: paths to ignore that the result does not have.
    """

    workflow: str
    boundaries: int
    crashes: Sequence[Crash]
    fails: str = ""
    unused: tuple[str, ...] = ()

    @property
    def violations(self) -> Sequence[Crash]:
        return [crash for crash in self.crashes if crash.violates]

    def __str__(self) -> str:
        count = Counter(crash.kind for crash in self.crashes)
        kinds = ", ".join(f"{count[kind]} {kind}" for kind in KINDS if count[kind]) or "nothing"
        same = sum(crash.same for crash in self.crashes)
        repeated = sum(len(crash.repeated) for crash in self.crashes)
        again = sum(len(crash.again) for crash in self.crashes)
        return (
            f"{self.workflow}: {len(self.crashes)} faults ({kinds}) at {self.boundaries} boundaries; "
            f"{same} the same result, {repeated} finished steps repeated, {again} in flight ran twice, "
            f"{len(self.violations)} violations"
            + (f"; without faults it fails as well: {self.fails}" if self.fails else "")
        )

    def check(self) -> None:
        """Raise `AssertionError` that says where a promise was broken, and what differed."""
        if self.violations:
            lines = [str(self), *(f"  {crash}" for crash in self.violations[:10])]
            raise AssertionError("\n".join(lines))


async def crash_everywhere(  # noqa: PLR0913  (a harness's settings, all but two by name)
    workflow: Workflow[A, R],
    value: A,
    *,
    model: Model | Sequence[Model] | None = None,
    resources: Sequence[object] = (),
    signals: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    faults: Sequence[Kind] = ("kill",),
    ledger: Callable[[], Sequence[Any]] | None = None,
    limit: int | None = None,
    timeout_s: float = 60.0,
    on_crash: Callable[[Crash], object] | None = None,
    check: bool = True,
    run_id: str | None = None,
) -> CrashReport:
    """Crash a workflow at each place, resume it, and compare with the run that did not crash.

    Args:
        model, resources: as of `Engine`; they outlive the crashes, as services outside do.
        signals: what the run's waits are given, by name.
        ignore: paths of the result that may differ, such as `"written_at"` or `"pages.*.sha256"`.
        faults: "kill" ends the process after each append; "lost" ends it after each attempt has done its
            work, and before that is on disk; "tool" lets each attempt raise once; "model" lets each request
            fail once.
        ledger: gives what has happened outside so far, as plain data, oldest first, such as the lines of a
            file. What a run with "lost", "tool" or "model" adds must be what the run without faults added.
        limit: at most so many faults of each kind, spread evenly.
        timeout_s: within which a run must have ended.
        run_id: the id of all these runs, of which idempotency keys are made; else a new one for each call,
            since a service that knows the keys would give back what it gave the last time.
        check: raise when a promise was broken; else look at the report.

    Raises:
        AssertionError: which fault, and what differed or ran again; or the run without faults did not
            end (`NoReference`).
    """
    harness = _Harness(
        workflow, value, models_of(model), resources, signals or {}, ignore, timeout_s,
        check_name(run_id, "run id") if run_id is not None else f"crashed-{secrets.token_hex(4)}", ledger,
    )  # fmt: skip
    await harness.run_whole()
    crashes: list[Crash] = []
    for kind in faults:
        for crash in harness.places(kind, limit):
            crashes.append(await crash())
            if on_crash is not None:
                on_crash(crashes[-1])
    fails = harness.result.why if isinstance(harness.result, _Failed) else ""
    unused = () if fails else tuple(each for each in ignore if not has(harness.result, each))
    report = CrashReport(workflow.name, len(harness.heads), tuple(crashes), fails, unused)
    if check:
        report.check()
    return report


@dataclass(frozen=True, slots=True)
class _Failed:
    """How a run ended that has no result; `stuck`: it did not end at all."""

    why: str
    stuck: bool = False


class _Cut:
    """A model whose n-th request (from 1) fails once; it counts them."""

    def __init__(self, model: Model, at: int = 0) -> None:
        self._model = model
        self._at = at
        self.asked = 0

    @property
    def name(self) -> str:
        return self._model.name

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        self.asked += 1
        if self.asked == self._at:
            raise ModelUnavailable("the harness has cut the model off")
        return await self._model.respond(request, on_delta=on_delta)


@dataclass
class _Harness:
    workflow: Workflow[Any, Any]
    value: Any
    models: Sequence[Model]
    resources: Sequence[object]
    signals: Mapping[str, Any]
    ignore: Sequence[str]
    timeout_s: float
    base: str
    """Id of the run without faults. Each run that begins anew has one, and so keys, of its own."""
    ledger: Callable[[], Sequence[Any]] | None = None
    run_id: str = ""
    runs: int = 0
    happened: Sequence[Any] = ()
    """What the run without faults has added to the ledger."""
    heads: Sequence[int] = ()
    events: Sequence[Event] = ()
    whole: State = field(default_factory=State)
    result: Any = None
    attempts: Sequence[Attempt] = ()
    requests: int = 0
    store: MemoryStore = field(default_factory=MemoryStore)
    artifacts: MemoryStore = field(default_factory=MemoryStore)
    """Files and large values of all runs: they are kept by content."""

    async def run_whole(self) -> None:
        """The run without faults, which tells where faults can strike."""
        store, ran = Recording(), Counter[Attempt]()
        models = [_Cut(model) for model in self.models]
        self.run_id, before = self.base, self._entries()
        self.result = await self._run(store, ran, models)
        self.happened = self._entries()[len(before) :]
        if isinstance(self.result, _Failed) and self.result.stuck:
            raise NoReference(
                f"{self.workflow.name!r} does not end without any fault: {self.result.why}. Give its waits "
                f"their signals (signals=, or --signal NAME=JSON), or more time."
            )
        self.store, self.heads = store, store.heads
        self.events = (await store.load(self.base)).events
        self.whole = fold(await store.load(self.base))
        self.attempts = list(ran)
        self.requests = models[0].asked if models else 0

    def places(self, kind: Kind, limit: int | None) -> Sequence[Callable[[], Awaitable[Crash]]]:
        """What to do for each fault of a kind."""
        found: list[Callable[[], Awaitable[Crash]]]
        match kind:
            case "kill":
                found = [partial(self.kill, head) for head in self.heads]
            case "lost":
                found = [partial(self.lose, attempt) for attempt in self.attempts]
            case "tool":
                found = [partial(self.crash_tool, attempt) for attempt in self.attempts]
            case "model":
                found = [partial(self.cut_model, n) for n in range(1, self.requests + 1)]
        if limit is None or len(found) <= limit:
            return found
        return [found[index * len(found) // limit] for index in range(limit)]

    # ---- faults

    async def kill(self, head: int) -> Crash:
        """The process dies right after an append; a new one has the journal up to there."""
        self.run_id = self.base
        record = (await self.store.load(self.base)).record
        store, ran = await left_of(record, self.events[:head]), Counter[Attempt]()
        before = ended(self.events[:head])
        result = await self._run(store, ran, self.models)
        last = self.events[head - 1] if head else None
        at = f"after event {head} ({last.kind} {last.key})".replace(" )", ")") if last else "at 0"
        return await self._crash("kill", at, store, result, ran, before)

    async def lose(self, attempt: Attempt) -> Crash:
        """An attempt has done its work, and the process dies before its outcome is on disk."""
        self._begin_anew()
        dying, ran, entries = Dying(attempt), Counter[Attempt](), self._entries()
        await self._run(dying, ran, self.models)
        journal = await dying.load(self.run_id)
        before = ended(journal.events)
        once = Counter(ran)
        store = await left_of(journal.record, journal.events)
        result = await self._run(store, ran, self.models)
        repeated = frozenset(each for each in before if ran[each] > once[each])
        at = f"at the end of {_text(attempt)}"
        return await self._crash("lost", at, store, result, ran, repeated, entries=entries)

    async def crash_tool(self, attempt: Attempt) -> Crash:
        """One attempt raises; where the run has failed of it, it is tried again."""
        self._begin_anew()
        store, ran, struck, entries = MemoryStore(), Counter[Attempt](), [False], self._entries()

        def strike(ctx: Context) -> None:
            if place(ctx) == attempt and not struck[0]:
                struck[0] = True
                raise ToolCrashed("the harness has crashed this attempt")

        result = await self._run(store, ran, self.models, strike)
        instead = _took_over((await store.load(self.run_id)).events, attempt)
        return await self._crash(
            "tool", f"in {_text(attempt)}", store, result, ran, frozenset(), instead, entries
        )

    async def cut_model(self, number: int) -> Crash:
        """A request of the first model fails, as when the line is cut."""
        self._begin_anew()
        store, ran, entries = MemoryStore(), Counter[Attempt](), self._entries()
        first, *others = self.models
        result = await self._run(store, ran, [_Cut(first, number), *others])
        at = f"at request {number}"
        return await self._crash("model", at, store, result, ran, frozenset(), entries=entries)

    def _begin_anew(self) -> None:
        self.runs += 1
        self.run_id = f"{self.base}-{self.runs}"

    def _entries(self) -> Sequence[Any]:
        return list(self.ledger()) if self.ledger is not None else []

    # ---- runs

    async def _run(
        self,
        store: MemoryStore,
        ran: Counter[Attempt],
        models: Sequence[Model],
        strike: Callable[[Context], None] | None = None,
    ) -> Any:
        """Bring the run to its end: its result as plain data, or how it failed."""

        def note(ctx: Context) -> None:
            ran[place(ctx)] += 1
            if strike is not None:
                strike(ctx)

        twin = twin_of(self.workflow, note)
        try:
            with anyio.fail_after(self.timeout_s):
                async with Engine(
                    store, model=models or None, model_policy=_AT_ONCE, resources=self.resources,
                    artifacts=self.artifacts, suspend_after_s=0.05, poll_s=0.05,
                ) as engine:  # fmt: skip
                    return await self._attend(engine, twin, store)
        except TimeoutError:
            state = fold(await store.load(self.run_id))
            steps = [view.key for view in state.views() if view.status in ("waiting", "running")]
            return _Failed(
                f"no end within {self.timeout_s:g} s; it is at {', '.join(steps) or 'no step'}",
                stuck=True,
            )

    async def _attend(self, engine: Engine, twin: Workflow[Any, Any], store: MemoryStore) -> Any:
        try:
            handle = await engine.start(twin, self.value, run_id=self.run_id)
        except LeaseLost:
            return None  # it has died at its first append
        known = {
            event.payload.name
            for event in (await store.load(self.run_id)).events
            if isinstance(event.payload, ev.Signalled)
        }
        for name, value in self.signals.items():
            if name not in known and (await handle.record()).status not in ev.FINAL:
                await engine.signal(self.run_id, name, value)
        outcome = await self._outcome(handle, store)
        if isinstance(store, Dying) and store.died.is_set():
            return None
        if isinstance(outcome, RunError):
            if self._crashed(fold(await store.load(self.run_id))):
                await engine.retry(self.run_id)
                return await self._attend(engine, twin, store)
            return _Failed(str(outcome))
        return json.loads(Codec(self.workflow.gives, "result").dump(outcome).text or "null")

    async def _outcome(self, handle: RunHandle[Any], store: MemoryStore) -> Any:
        """The result of a run, or how it failed; what is unknown is decided meanwhile."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._decide, store)
            if isinstance(store, Dying):
                tasks.start_soon(until_dead, store, tasks.cancel_scope)
            try:
                return await handle.result()
            except RunError as error:
                return error
            finally:
                tasks.cancel_scope.cancel()

    def _crashed(self, state: State) -> bool:
        """Whether a run failed of what the harness did."""
        error = state.ended.error if state.ended is not None else None
        return error is not None and error.type == ToolCrashed.__name__

    async def _decide(self, store: MemoryStore) -> None:
        """Agree to what is asked; of an unknown outcome say that it happened, as without faults."""
        while True:
            await anyio.sleep(0.02)
            state = fold(await store.load(self.run_id))
            for asked in open_questions(state):
                yes = Value.of('{"approved":true,"by":"the harness"}')
                await store.post(self.run_id, Message(asked.name, "signal", asked.name, yes))
            for step, slot in list(state.unknown.items()) if self.events else ():
                found = self.whole.by_exec.get(slot.exec)
                value = found.value if found is not None else None
                message = Message(f"decide-{step}", "decide", step, value, "done")
                await store.post(self.run_id, message)

    async def _crash(
        self,
        kind: Kind,
        at: str,
        store: MemoryStore,
        result: Any,
        ran: Counter[Attempt],
        before: AbstractSet[Attempt],
        instead: str = "",
        entries: Sequence[Any] | None = None,
    ) -> Crash:
        """What came of a fault; `before`: attempts that must not run again, and `entries` the ledger's then."""
        events = (await store.load(self.run_id)).events
        if isinstance(result, _Failed) or isinstance(self.result, _Failed):
            differs = "" if result == self.result else f"{_told(result)}, not {_told(self.result)}"
        else:
            differs = difference(self.result, result, self.ignore)
        twice = {each for each, times in ran.items() if times > 1}
        must_not = {each for each in twice if self._is_once(each)} | {
            each for each in ran if each in before
        }
        added = self._entries()[len(entries) :] if entries is not None else self.happened
        decided = tuple(
            event.key for event in events if isinstance(event.payload, ev.OutcomeUnknown)
        )
        return Crash(
            kind, at, not differs, differs,
            repeated=_texts(must_not), again=tuple(self._keyed(twice - must_not)), decided=decided,
            instead=instead, outside="" if instead else more_or_less(self.happened, added),
        )  # fmt: skip

    def _is_once(self, attempt: Attempt) -> bool:
        """Whether an attempt is one of a step whose effect happens once."""
        step, alternative, _ = attempt
        slot = self.whole.by_exec.get(step)
        return slot is not None and self.whole.nodes[slot.step.nodes[alternative]].once

    def _keyed(self, attempts: Iterable[Attempt]) -> Iterator[str]:
        for step, alternative, number in sorted(attempts):
            key = f"{self.run_id}/{step}/{alternative}"
            yield f"{_text((step, alternative, number))}, key {key}"


def _told(result: Any) -> str:
    return f"it failed ({result.why})" if isinstance(result, _Failed) else "a result"


def _took_over(events: Sequence[Event], attempt: Attempt) -> str:
    """What a declared way out made of a crashed attempt; empty where it was only tried again."""
    for event in events:
        if isinstance(event.payload, ev.AttemptFailed) and attempt == (
            event.key, event.alternative, event.attempt
        ):  # fmt: skip
            if event.payload.then == "next":
                return "the next alternative"
            if event.payload.then == "fail" and "/t" in event.key:
                return "its planner, which saw the failure"
    return ""


def _texts(attempts: Iterable[Attempt]) -> tuple[str, ...]:
    return tuple(sorted(" ".join(map(str, each)) for each in attempts))


def _text(attempt: Attempt) -> str:
    step, alternative, number = attempt
    return f"{step} alternative {alternative} attempt {number}"
