"""What the simulation has found, each as the smallest run that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from flowkit import Context, Engine, Ref, workflow
from flowkit.engine import FIRST_EPOCH
from flowkit.events import Event
from flowkit.nodes import tool
from flowkit.ports import Journal, Message, RunRecord, World
from flowkit.store import MemoryStore
from flowkit.values import Codec
from tests.scenario.kit import backend, crashed, eventually, memory, now, running, world


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return backend(request.param)


@tool
async def answer(ctx: Context, text: str) -> str:
    return f"answer to {text}"


@workflow
def plain(text: Ref[str]) -> Ref[str]:
    return answer(text)


@tool
async def nap(ctx: Context, text: str) -> str:
    await ctx.sleep(30)
    return f"slept on {text}"


@workflow
def sleepy(text: Ref[str]) -> Ref[str]:
    return nap(text)


@tool
async def ask(ctx: Context, text: str) -> str:
    await anyio.sleep(2)
    try:
        return str(await ctx.signal("reply", timeout_s=20))
    except TimeoutError:
        return "nobody replied"


@workflow
def asking(text: Ref[str]) -> Ref[str]:
    return ask(text)


class Elsewhere(MemoryStore):
    """The same store as another machine's process sees it: its owner is another one."""

    def __init__(self, of: MemoryStore) -> None:
        super().__init__(now=now)
        self._runs, self._rows, self._posted = of._runs, of._rows, of._posted
        self._artifacts = of._artifacts

    async def claim(
        self, run_id: str, owner: str, lease_s: float, token: int | None = None
    ) -> int | None:
        return await super().claim(run_id, "another machine", lease_s, token)


async def created_only() -> MemoryStore:
    """A store as a crash between a run's row and its first event leaves it, seen from elsewhere."""
    store = memory()
    hash_ = plain.input_hash(plain.codec().dump("x").text or "")
    await store.create(
        RunRecord("r", "plain", hash_, now(), owner="the dead", epoch=FIRST_EPOCH, lease_until=now() + 30)
    )  # fmt: skip
    return store


async def test_a_run_whose_creator_died_before_its_first_event_is_begun_by_who_asks_for_it() -> (
    None
):
    """Seed 163: `run` followed the dead owner for ever, for only who has the input can begin it."""
    async with running(await created_only(), recover=True) as engine:
        assert await engine.run(plain, "x", run_id="r") == "answer to x"


async def test_a_run_that_was_refused_once_is_still_taken_up_when_its_time_comes() -> None:
    """Seed 176: a message for a run without events made the engine refuse to wake it for good."""
    store = memory()
    hash_ = sleepy.input_hash(sleepy.codec().dump("x").text or "")
    await store.create(RunRecord("r", "sleepy", hash_, now()))
    await store.post("r", Message("m", "signal", "nothing", Codec(Any, "m").dump(1)))
    async with running(store, recover=True, workflows=[sleepy]) as engine:
        await eventually(lambda: engine.refusal("r") is not None)
        assert await engine.run(sleepy, "x", run_id="r") == "slept on x"


async def test_who_waits_for_a_waiting_run_learns_that_another_process_has_ended_it() -> None:
    """Seed 194: the handle of the process in which it had waited was never told."""
    store = memory()
    async with running(store) as engine:
        handle = await engine.start(sleepy, "x", run_id="r")
        await eventually(lambda: "r" not in _drivers(engine), limit_s=25)
        engine.poll_s = 1.0
        async with Engine(
            Elsewhere(store), workflows=[sleepy], recover=True, world=world(2), poll_s=0.1
        ) as other:
            _parked(engine).clear()  # it is the slower of the two
            assert await other.handle("r").result() == "slept on x"
        assert await handle.result() == "slept on x"


async def test_a_sleep_that_begins_after_the_clock_went_back_ends() -> None:
    """Seed 134: its end was before the last event's time, so the run waited without a due time."""
    ahead = [0.0]

    @tool
    async def turn_back(ctx: Context, text: str) -> str:
        ahead[0] = -300.0
        return text

    @workflow
    def late(text: Ref[str]) -> Ref[str]:
        return nap(turn_back(text))

    chances = World(lambda: now() + ahead[0], lambda: 0.5)
    async with running(memory(), world=chances) as engine:
        assert await engine.run(late, "x") == "slept on x"


async def test_a_signal_that_is_waited_for_again_after_a_crash_still_times_out() -> None:
    """Seed 1978: nobody looked at the time limit of a wait that was taken up in memory."""
    store = memory()
    async with running(store, suspend_after_s=100) as engine:
        assert await engine.run(asking, "x", run_id="r") == "nobody replied"
    copy = await crashed(store, "r", 3)
    whole = (await copy.load("r")).events
    assert whole[-1].kind == "waiting"
    async with running(copy, world=World(lambda: whole[-1].at + anyio.current_time() - began)) as e:
        began = anyio.current_time()
        with anyio.fail_after(200):
            assert await e.run(asking, "x", run_id="r") == "nobody replied"


async def test_a_node_that_exits_while_it_is_cancelled_does_not_end_the_service() -> None:
    """A `SystemExit` out of a clean-up passed as the service's own."""

    @tool
    async def leave(ctx: Context, text: str) -> str:
        try:
            await anyio.sleep(1000)
        finally:
            raise SystemExit(3)

    @workflow
    def leaving(text: Ref[str]) -> Ref[str]:
        return leave(text)

    async with running(memory()) as engine:
        handle = await engine.start(leaving, "x")
        await anyio.sleep(1)
        await handle.cancel()
        await eventually(lambda: handle.id not in _drivers(engine))
        assert (await handle.record()).status == "cancelled"
        assert await engine.run(plain, "y") == "answer to y"


def _drivers(engine: Engine) -> Any:
    assert engine._hosting is not None
    return engine._hosting.drivers


def _parked(engine: Engine) -> set[str]:
    assert engine._hosting is not None
    return engine._hosting._parked


class Posting(MemoryStore):
    """Somebody posts a signal just while the run is said to wait."""

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        kept = await super().append(run_id, events, expect=expect, epoch=epoch)
        if events[-1].kind == "waiting" and not events[-1].key:
            value = Codec(Any, "m").dump("here I am")
            await self.post(run_id, Message("m", "signal", "reply", value))
            return self._runs[run_id].messages()
        return kept


@tool
async def await_reply(ctx: Context, text: str) -> str:
    return str(await ctx.signal("reply"))


@workflow
def patient(text: Ref[str]) -> Ref[str]:
    return await_reply(text)


async def test_a_signal_that_comes_while_a_run_is_put_to_rest_is_not_lost() -> None:
    """Seed 1888, without any fault: it was recorded, and the run was put to rest all the same."""
    store = Posting(now=now)
    async with running(store) as engine:
        assert await engine.run(patient, "x", run_id="r") == "here I am"


async def test_a_run_that_was_woken_by_a_signal_is_recovered_after_a_crash() -> None:
    """Its row said that it waited, for nothing, so that no recovery took it up."""
    store = Posting(now=now)
    async with running(store) as engine:
        await engine.run(patient, "x", run_id="r")
        whole = (await store.load("r")).events
    head = next(event.seq for event in whole if event.kind == "signalled")
    copy = await crashed(store, "r", head)
    async with running(copy, recover=True, workflows=[patient]) as engine:
        assert await engine.handle("r").result() == "here I am"


@tool
async def work_then_nap(ctx: Context, text: str) -> str:
    await anyio.sleep(9)
    await ctx.sleep(30)
    return f"worked on {text}"


@workflow
def working(text: Ref[str]) -> Ref[str]:
    return work_then_nap(text)


async def test_an_attempt_that_is_begun_anew_after_its_sleep_is_not_put_to_rest() -> None:
    """Seed 1031813: it was taken for waiting while it worked, stopped, and nobody knew when it was due."""
    store = memory()
    async with running(store, suspend_after_s=3, poll_s=200) as engine:
        handle = await engine.start(working, "x", run_id="r")
        await anyio.sleep(37.5)
        assert "r" not in _drivers(engine)
        await handle.signal("nothing")  # wakes the run just before its time, which is 39
        assert await handle.result() == "worked on x"


class Slow(MemoryStore):
    """Who looks at the run gets what it was four seconds ago."""

    async def load(self, run_id: str, *, after: int = 0) -> Journal:
        journal = await super().load(run_id, after=after)
        if not journal.events:
            await anyio.sleep(4)
        return journal


async def test_a_look_at_a_run_before_it_began_does_not_refuse_it_afterwards() -> None:
    """Seed 1021460: the refusal came when the run had begun, and it was never woken again."""
    store = Slow(now=now)
    hash_ = sleepy.input_hash(sleepy.codec().dump("x").text or "")
    await store.create(RunRecord("r", "sleepy", hash_, now()))
    await store.post("r", Message("m", "signal", "nothing", Codec(Any, "m").dump(1)))
    async with running(store, recover=True, workflows=[sleepy], poll_s=5) as engine:
        handle = await engine.start(sleepy, "x", run_id="r")  # at 8; the look of 5 ends at 9
        assert await handle.result() == "slept on x"


class Busy(MemoryStore):
    """Its appends about steps take a minute, as when the disk is busy."""

    async def append(self, run_id: str, events: Sequence[Event], **rest: Any) -> Sequence[Message]:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60 if any(event.key for event in events) else 0)
        return await super().append(run_id, events, **rest)


@tool
async def long_nap(ctx: Context, text: str) -> str:
    await ctx.sleep(90)
    return f"slept on {text}"


@workflow
def rested(text: Ref[str]) -> Ref[str]:
    return answer(long_nap(text, id="nap"))


async def test_a_run_is_not_put_to_rest_while_the_end_of_a_step_is_being_appended() -> None:
    """Its row would say that it waits for nothing, and after a crash nobody would take it up."""
    ahead = [0.0]
    clock = World(lambda: now() + ahead[0])
    async with running(Busy(now=now), lease_s=1000, suspend_after_s=50, world=clock) as engine:
        handle = await engine.start(rested, "x", run_id="r")
        await anyio.sleep(70)  # it sleeps; its wait was appended at 60
        ahead[0] = 30.0  # by the clock its time is over, and nothing runs or is due
        await engine.signal("r", "look")
        assert await handle.result() == "answer to slept on x"
        events = (await engine.store.load("r")).events
    assert [event.key for event in events if event.kind == "waiting"] == ["nap"]
