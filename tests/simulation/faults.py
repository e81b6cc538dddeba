"""A store and a model between a process and the world, which do wrong what real ones do wrong."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from flowkit.chat import ChatMessage, ModelAnswer, ModelRequest, OnDelta
from flowkit.errors import ModelError, ModelUnavailable, RateLimited, StoreUnusable
from flowkit.events import Event
from flowkit.ports import Journal, Message, RunQuery, RunRecord
from flowkit.testing import Reply, calls
from flowkit.testing.script import answer_of
from tests.simulation.process import Process

T = TypeVar("T")

KINDS: Final = (
    "death before an append", "death after an append", "death at another call", "death at a time",
    "append refused", "append done, answer lost", "store away for a while", "slow call",
    "lease taken by another", "cut off from the store", "messages late", "messages in another order",
    "clock ahead", "clock back", "model away", "model busy",
)  # fmt: skip
"""Every fault that is injected, in the order of the report."""

IDLE_SHARE: Final = 0.1
"""Most calls only look for work: they get fewer faults, so that enough are left for appends."""


@dataclass
class Lots:
    """Which faults may strike, how often, and for how long: a seed's swarm of faults."""

    chance: random.Random
    rates: dict[str, float]
    left: int
    """Faults that may still strike; after them the world is sound."""
    counts: Counter[str] = field(default_factory=Counter[str])

    def draw(self, kind: str, share: float = 1.0) -> bool:
        rate = self.rates.get(kind, 0.0) * share
        if not rate or self.left <= 0 or self.chance.random() >= rate:
            return False
        self.left -= 1
        self.counts[kind] += 1
        return True

    @classmethod
    def of(cls, chance: random.Random) -> Lots:
        """Each seed leaves out some kinds, so that frequent ones do not hide the deep ones."""
        rates = {kind: chance.choice((0.0, 0.02, 0.08, 0.2)) for kind in KINDS}
        rates["death at a time"] *= 4
        if not any(rates.values()):
            rates[chance.choice(KINDS[:8])] = 0.3
        return cls(chance, rates, left=chance.choice((1, 2, 4, 8, 12)))


class Link:
    """A process's way to the store (`flowkit.ports.Store` and `Artifacts`)."""

    def __init__(self, process: Process, lots: Lots) -> None:
        self.process = process
        self.world = process.world
        self.lots = lots
        self._away_until = -1.0
        self._cut_until = -1.0

    async def _call(self, work: Callable[[], Awaitable[T]], *, append: bool = False) -> T:
        """One call, with what may go wrong around it. It is shielded, as the contract says."""
        if self.lots.left <= 0 and anyio.current_time() >= max(self._away_until, self._cut_until):
            self.process.check()
            done = await work()
            self.process.check()
            return done
        with anyio.CancelScope() as scope:
            scope.shield = True
            await self._before(append)
            done = await work()
            await self._after(append)
            return done
        raise AssertionError("unreachable: nobody cancels that scope")

    async def _before(self, append: bool) -> None:
        chance = self.lots.chance
        draw = partial(self.lots.draw, share=1.0 if append else IDLE_SHARE)
        self.process.check()
        if draw("slow call"):
            await anyio.sleep(chance.choice((0.1, 1, 4)))
        if append and draw("cut off from the store"):
            self._cut_until = anyio.current_time() + chance.choice((10, 40, 100))
        while (left := self._cut_until - anyio.current_time()) > 0:
            await anyio.sleep(min(left, 1))
            self.process.check()
        if draw("store away for a while"):
            self._away_until = anyio.current_time() + chance.choice((1, 10, 60))
        if append and draw("lease taken by another"):
            self._steal()
        if draw("clock ahead"):
            self.world.ahead_s += chance.choice((5, 60, 3600, 86_400))
        if draw("clock back"):
            self.world.ahead_s -= chance.choice((1, 30, 300))
        if draw("death before an append" if append else "death at another call"):
            self.process.kill()
        self.process.check()
        if anyio.current_time() < self._away_until:
            raise StoreUnusable("the disk is away")
        if append and draw("append refused"):
            raise StoreUnusable("the append failed, and nothing was written")

    async def _after(self, append: bool) -> None:
        chance = self.lots.chance
        draw = partial(self.lots.draw, share=1.0 if append else IDLE_SHARE)
        if append and draw("death after an append"):
            self.process.kill()
        self.process.check()
        if draw("slow call"):
            await anyio.sleep(chance.choice((0.1, 1, 4)))
            self.process.check()
        if append and draw("append done, answer lost"):
            raise StoreUnusable("the connection broke; nobody knows what was written")

    def _steal(self) -> None:
        """Somebody else has claimed the run since our lease ran out, and dies of it at once."""
        for run in self.world.store._runs.values():
            if run.owner is not None:
                run.owner = "a thief"
                run.epoch = ((run.epoch >> 40) + 1) << 40
                run.lease_until = self.world.now() + 5

    def _messages(self, found: Sequence[Message]) -> Sequence[Message]:
        if len(found) > 1 and self.lots.draw("messages in another order", share=3):
            found = list(found)
            self.lots.chance.shuffle(found)
        if found and self.lots.draw("messages late", share=3):
            return found[: self.lots.chance.randrange(len(found))]
        return found

    # ---- the contract

    async def create(self, run: RunRecord) -> None:
        self.process.epoch = run.epoch
        mine = replace(run, owner=self.process.name)
        await self._call(lambda: self.world.store.create(mine))

    async def append(
        self, run_id: str, events: Sequence[Event], *, expect: int, epoch: int
    ) -> Sequence[Message]:
        async def work() -> Sequence[Message]:
            found = await self.world.store.append(run_id, events, expect=expect, epoch=epoch)
            self.world.recorded(events)
            return found

        return self._messages(await self._call(work, append=True))

    async def load(self, run_id: str, *, after: int = 0) -> Journal:
        return await self._call(lambda: self.world.store.load(run_id, after=after))

    async def claim(
        self, run_id: str, owner: str, lease_s: float, token: int | None = None
    ) -> int | None:
        async def work() -> int | None:
            epoch = await self.world.store.claim(run_id, self.process.name, lease_s, token)
            self.process.epoch = epoch or self.process.epoch
            return epoch

        return await self._call(work)

    async def renew(self, run_id: str, epoch: int, lease_s: float) -> Sequence[Message] | None:
        found = await self._call(lambda: self.world.store.renew(run_id, epoch, lease_s))
        return None if found is None else self._messages(found)

    async def release(self, run_id: str, epoch: int) -> None:
        await self._call(lambda: self.world.store.release(run_id, epoch))

    async def post(self, run_id: str, message: Message) -> None:
        await self._call(lambda: self.world.store.post(run_id, message))

    async def runs(self, query: RunQuery) -> Sequence[RunRecord]:
        return await self._call(lambda: self.world.store.runs(query))

    async def put(self, data: bytes) -> str:
        return await self._call(lambda: self.world.store.put(data))

    async def get(self, sha256: str) -> bytes:
        return await self._call(lambda: self.world.store.get(sha256))


class Oracle:
    """A model that says the same to the same request, and fails at times, but not for ever.

    It outlives processes, as a server does.
    """

    name = "oracle"

    def __init__(self, lots: Lots) -> None:
        self._lots = lots
        self._failed: Counter[str] = Counter()

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        await anyio.sleep(0.5)
        asked = hashlib.sha256(
            "\0".join(f"{each.role}{each.content}" for each in request.messages).encode()
        ).hexdigest()
        if self._failed[asked] < 3 and (error := self._error()) is not None:
            self._failed[asked] += 1
            raise error
        return answer_of(self._reply(request, asked), request, self.name)

    def _error(self) -> ModelError | None:
        if self._lots.draw("model away"):
            return ModelUnavailable("nobody answers")
        if self._lots.draw("model busy"):
            return RateLimited("too many", retry_after_s=self._lots.chance.choice((0, 3, 40)))
        return None

    def _reply(self, request: ModelRequest, asked: str) -> Reply:
        told = (request.messages[0].content or "").split()
        if told[:1] != ["agent"]:
            return f"said {asked[:8]}"
        turn = sum(each.role == "assistant" for each in request.messages)
        if turn >= int(told[1]):
            return ChatMessage("assistant", f"answer {asked[:8]}")
        wanted: list[tuple[str, Any]] = [(told[2], {"text": f"turn {turn}"})]
        if turn % 2:
            wanted += [(told[2], {"text": "again"}), (told[3], {"text": "in vain"})]
        return calls(*wanted)
