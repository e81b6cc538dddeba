"""Whatever is done to them, a store in memory and one in a database give the same answers."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, cast

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowkit import events as e
from flowkit.errors import FlowkitError
from flowkit.ports import Message, RunQuery
from flowkit.store import MemoryStore, SqlStore
from flowkit.values import Value
from tests.contract.helpers import EVERY_KIND, GENERATION, AnyStore, Clock, event, run
from tests.postgres import Server

RUN_IDS = st.sampled_from(["a", "b", "a_", "\ud800"])
EPOCHS = st.sampled_from([0, 1, 2, GENERATION, 2 * GENERATION])
TEXTS = st.text(max_size=5)
PAYLOADS = st.one_of(
    st.sampled_from([payload for payload in EVERY_KIND if not isinstance(payload, e.RunEnded)]),
    st.builds(e.RunEnded, st.sampled_from(["succeeded", "failed"])),
    st.builds(e.Signalled, TEXTS, message=st.sampled_from(["", "m1", "m2"])),
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(["m1", "m2", "m3"]),
    st.sampled_from(["signal", "cancel", "decide"]),
    st.text(max_size=5),
    st.none() | st.sampled_from([Value.of('"\N{SNOWMAN}"'), Value(None, "d", 9)]),
)
TIMES = st.none() | st.sampled_from([990.0, 1005.0, 1020.0])
QUERIES = st.builds(
    RunQuery,
    run_id=st.none() | RUN_IDS,
    prefix=st.none() | st.sampled_from(["a", "a_", "", "A"]),
    status=st.none() | st.frozensets(st.sampled_from(["pending", "running", "waiting", "failed"])),
    since=TIMES,
    free_at=TIMES,
    due_at=TIMES,
    messages=st.booleans(),
    limit=st.integers(-1, 4),
)


class Same(RuleBasedStateMachine):
    """Two stores, one clock, and what is known of heads, to make most operations succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.exit = ExitStack()
        self.portal = self.exit.enter_context(start_blocking_portal())
        self.clock = Clock()
        self.target = self.empty()
        self.memory = MemoryStore(now=self.clock)
        self.sql = self.fresh()

    def empty(self) -> str:
        folder = self.exit.enter_context(tempfile.TemporaryDirectory())
        return str(Path(folder) / "a.db")

    def fresh(self) -> SqlStore:
        return SqlStore(self.target, durability="process", now=self.clock)

    def teardown(self) -> None:
        self.portal.call(self.sql.close)
        self.exit.close()

    def both(self, call: Callable[[AnyStore], Awaitable[object]]) -> object:
        """Do it to both stores; the answer, or the error's class, which must be the same."""
        first, second = self.answer(call, self.memory), self.answer(call, self.sql)
        assert first == second
        return first

    def answer(self, call: Callable[[AnyStore], Awaitable[object]], store: AnyStore) -> object:
        try:
            found = self.portal.call(call, store)
        except FlowkitError as error:
            return type(error), str(error)
        return [*cast("Sequence[object]", found)] if isinstance(found, tuple | list) else found

    @rule(run_id=RUN_IDS, created_at=st.sampled_from([980.0, 1000.0]))
    def create(self, run_id: str, created_at: float) -> None:
        self.both(lambda store: store.create(run(run_id, created_at)))

    @rule(run_id=RUN_IDS, payloads=st.lists(PAYLOADS, max_size=3), skew=st.sampled_from([0] * 6 + [1, -1]),
          epoch=st.none() | EPOCHS)  # fmt: skip
    def append(self, run_id: str, payloads: list[e.Payload], skew: int, epoch: int | None) -> None:
        try:
            record = self.portal.call(self.memory.load, run_id).record
        except FlowkitError:
            record = run(run_id)
        head, known = record.head + skew, record.epoch if epoch is None else epoch
        events = [event(head + n, payload, "") for n, payload in enumerate(payloads, 1)]
        self.both(lambda store: store.append(run_id, events, expect=head, epoch=known))

    @rule(run_id=RUN_IDS, owner=st.sampled_from(["x", "y"]), lease_s=st.sampled_from([5.0, 20.0]),
          token=st.none() | EPOCHS)  # fmt: skip
    def claim(self, run_id: str, owner: str, lease_s: float, token: int | None) -> None:
        self.both(lambda store: store.claim(run_id, owner, lease_s, token))

    @rule(run_id=RUN_IDS, epoch=EPOCHS)
    def renew(self, run_id: str, epoch: int) -> None:
        self.both(lambda store: store.renew(run_id, epoch, 10.0))

    @rule(run_id=RUN_IDS, epoch=EPOCHS)
    def release(self, run_id: str, epoch: int) -> None:
        self.both(lambda store: store.release(run_id, epoch))

    @rule(run_id=RUN_IDS, message=MESSAGES)
    def post(self, run_id: str, message: Message) -> None:
        self.both(lambda store: store.post(run_id, message))

    @rule(query=QUERIES)
    def runs(self, query: RunQuery) -> None:
        self.both(lambda store: store.runs(query))

    @rule(data=st.binary(max_size=20))
    def put(self, data: bytes) -> None:
        name = self.both(lambda store: store.put(data))
        assert isinstance(name, str)
        self.both(lambda store: store.get(name))

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def reopen(self) -> None:
        self.portal.call(self.sql.close)
        self.sql = self.fresh()

    @rule(run_id=RUN_IDS, after=st.integers(-1, 5))
    def load(self, run_id: str, after: int) -> None:
        async def read(store: AnyStore) -> object:
            journal = await store.load(run_id, after=after)
            return [journal.record, *journal.events]

        self.both(read)

    @invariant()
    def the_same_runs_are_listed(self) -> None:
        self.both(lambda store: store.runs(RunQuery()))


TestSame = Same.TestCase
TestSame.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


class SamePostgres(Same):
    server: ClassVar[Server]

    def empty(self) -> str:
        return self.server.fresh()


@pytest.mark.long
class TestSamePostgres(SamePostgres.TestCase):
    settings = settings(max_examples=25, stateful_step_count=30, deadline=None)

    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        SamePostgres.server = server
