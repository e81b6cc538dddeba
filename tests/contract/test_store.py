"""One suite that every store is held to."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import anyio
import pytest

from flowkit import events as e
from flowkit.errors import (
    JournalConflict,
    LeaseLost,
    RunConflict,
    RunNotFound,
    StoreUnusable,
    ValueRefused,
)
from flowkit.events import Event, Status
from flowkit.owner import this_owner
from flowkit.ports import Message, RunQuery, RunRecord
from flowkit.values import Value
from tests.contract.helpers import EVERY_KIND, GENERATION, AnyStore, Clock, done, event, run

# ---- create and load


async def test_a_new_run_is_loaded_as_it_was_created(store: AnyStore) -> None:
    record = RunRecord("r-1_x", "wf", "hash", 12.25, "pending", 3.5, None, 7, None)
    await store.create(record)
    journal = await store.load("r-1_x")
    assert journal.record == record
    assert list(journal.events) == []


async def test_a_run_is_created_once(store: AnyStore) -> None:
    await store.create(run("r", workflow="first"))
    with pytest.raises(RunConflict, match="'r'"):
        await store.create(run("r", workflow="second"))
    assert (await store.load("r")).record.workflow == "first"


async def test_a_run_may_begin_with_another_ones_journal(store: AnyStore) -> None:
    await store.create(run("base"))
    await store.append("base", done(1, 5), expect=0, epoch=0)
    await store.create(replace(run("fork"), base="base", base_seq=3))
    assert (await store.load("fork")).record.head == 3
    mine = event(4, key="mine")
    await store.append("fork", [mine], expect=3, epoch=0)
    await store.append("base", done(6), expect=5, epoch=0)
    for after in range(5):
        found = await store.load("fork", after=after)
        assert list(found.events) == [*done(1, 3), mine][after:]
    assert list((await store.load("base")).events) == done(1, 6)
    assert {each.run_id: each.head for each in await store.runs(RunQuery())} == {
        "base": 6, "fork": 4
    }  # fmt: skip


async def test_a_beginning_may_lie_within_the_beginning_of_its_base(store: AnyStore) -> None:
    await store.create(run("base"))
    await store.append("base", done(1, 5), expect=0, epoch=0)
    await store.create(replace(run("fork"), base="base", base_seq=4))
    mine = [event(5, key="mine"), event(6, key="mine")]
    await store.append("fork", mine, expect=4, epoch=0)
    for count in range(1, 7):
        await store.create(replace(run(f"fork-{count}"), base="fork", base_seq=count))
        found = await store.load(f"fork-{count}")
        assert list(found.events) == [*done(1, 4), *mine][:count]
        assert found.record.head == count


async def test_a_beginning_that_is_not_there_is_refused(store: AnyStore) -> None:
    await store.create(run("base"))
    await store.append("base", done(1, 2), expect=0, epoch=0)
    for base, base_seq, error in (
        ("nobody", 1, RunNotFound), ("base", 0, JournalConflict), ("base", 3, JournalConflict)
    ):  # fmt: skip
        with pytest.raises(error):
            await store.create(replace(run("fork"), base=base, base_seq=base_seq))
    assert [each.run_id for each in await store.runs(RunQuery())] == ["base"]


async def test_an_unknown_run_is_not_found(store: AnyStore) -> None:
    await store.create(run("r"))
    for name in ("x", "R", "", "r%", "\ud800", "r\0", "'; DROP TABLE flowkit_runs; --"):
        with pytest.raises(RunNotFound):
            await store.load(name)
        with pytest.raises(RunNotFound):
            await store.append(name, done(1), expect=0, epoch=0)
        with pytest.raises(RunNotFound):
            await store.claim(name, "me", 1)
        with pytest.raises(RunNotFound):
            await store.renew(name, 0, 1)
        with pytest.raises(RunNotFound):
            await store.release(name, 0)
        with pytest.raises(RunNotFound):
            await store.post(name, Message("m", "cancel"))
    assert [found.run_id for found in await store.runs(RunQuery())] == ["r"]


@pytest.mark.parametrize(
    "record",
    [
        RunRecord("\ud800", "w", "h", 1.0),
        RunRecord("r", "\ud800", "h", 1.0),
        RunRecord("r", "w", "\ud800", 1.0),
        RunRecord("r", "w", "h", 1.0, owner="\ud800"),
        RunRecord("r\0", "w", "h", 1.0),
        RunRecord("r", "w", "\0", 1.0),
    ],
)
async def test_half_characters_and_nul_are_refused(store: AnyStore, record: RunRecord) -> None:
    with pytest.raises(ValueRefused):
        await store.create(record)
    assert not await store.runs(RunQuery())


# ---- append


async def test_events_come_back_in_order_and_after_a_place(store: AnyStore) -> None:
    await store.create(run())
    await store.append("r", done(1, 3), expect=0, epoch=0)
    await store.append("r", done(4), expect=3, epoch=0)
    assert list((await store.load("r")).events) == done(1, 4)
    assert list((await store.load("r", after=2)).events) == done(3, 2)
    assert list((await store.load("r", after=4)).events) == []
    assert list((await store.load("r", after=9)).events) == []
    assert (await store.load("r", after=2)).record.head == 4


async def test_every_kind_of_event_comes_back_equal(store: AnyStore) -> None:
    await store.create(run())
    sent = [event(seq, payload, f"k{seq}") for seq, payload in enumerate(EVERY_KIND, 1)]
    await store.append("r", sent, expect=0, epoch=0)
    assert list((await store.load("r")).events) == sent
    stored = {type(payload) for payload in EVERY_KIND}
    assert set(e.Payload.__args__) - stored == {e.Started, e.Progress}


async def test_the_journal_goes_on_where_the_writer_expects(store: AnyStore) -> None:
    await store.create(run())
    await store.append("r", done(1, 2), expect=0, epoch=0)
    for expect, events in (
        (0, done(1)), (1, done(2)), (3, done(4)), (2, done(4)), (2, done(2)), (2, done(0)),
        (2, [*done(3), *done(5)]), (2, [*done(3), *done(3)]), (0, []), (2, [event(0, e.Started("n"))]),
    ):  # fmt: skip
        with pytest.raises(JournalConflict):
            await store.append("r", events, expect=expect, epoch=0)
    assert list((await store.load("r")).events) == done(1, 2)
    await store.append("r", done(3), expect=2, epoch=0)


async def test_all_or_none_of_an_append(store: AnyStore) -> None:
    await store.create(run())
    for key in ("\ud800", "a\0"):
        with pytest.raises(ValueRefused):
            await store.append("r", [*done(1), event(2, None, key)], expect=0, epoch=0)
    with pytest.raises(ValueRefused):
        await store.claim("r", "me\0", 10)
    bad = Event(1, float("nan"), e.Intent("h"))
    with pytest.raises(ValueRefused):
        await store.append("r", [bad], expect=0, epoch=0)
    assert list((await store.load("r")).events) == []
    await store.append("r", done(1), expect=0, epoch=0)


async def test_an_empty_append_asks_for_messages(store: AnyStore) -> None:
    await store.create(run())
    await store.post("r", Message("m", "cancel", "why"))
    assert list(await store.append("r", [], expect=0, epoch=0)) == [Message("m", "cancel", "why")]


async def test_another_epoch_is_fenced(store: AnyStore) -> None:
    await store.create(run())
    first = await store.claim("r", "me", 10)
    assert first is not None
    await store.append("r", done(1), expect=0, epoch=first)
    second = await store.claim("r", "me", 10)
    assert second is not None
    for epoch in (first, 0, second + 1, -1):
        with pytest.raises(LeaseLost):
            await store.append("r", done(2), expect=1, epoch=epoch)
        with pytest.raises(LeaseLost):  # told first: who has lost the run need not load it
            await store.append("r", done(9), expect=8, epoch=epoch)
    assert list((await store.load("r")).events) == done(1)
    await store.append("r", done(2), expect=1, epoch=second)


STATUSES: list[tuple[e.Payload, str, Status, float | None]] = [
    (e.RunStarted("wf", EVERY_KIND[0].graph), "", "pending", None),  # type: ignore[union-attr]
    (e.Claimed("o", 0), "", "running", None),
    (e.Waiting("signal", until=55.5), "", "waiting", 55.5),
    (e.Waiting("signal"), "", "waiting", None),
    (e.Waiting("sleep", until=55.5), "a", "running", None),
    (e.RunEnded("succeeded"), "", "succeeded", None),
    (e.RunEnded("quarantined"), "", "quarantined", None),
    (e.Decided("retry"), "", "running", None),
]


@pytest.mark.parametrize(("payload", "key", "status", "due_at"), STATUSES)
async def test_the_row_follows_the_events(
    store: AnyStore, payload: e.Payload, key: str, status: Status, due_at: float | None
) -> None:
    await store.create(run())
    await store.append("r", [event(1, e.Claimed("o", 0), "")], expect=0, epoch=0)
    await store.append("r", [event(2, payload, key), event(3)], expect=1, epoch=0)
    record = (await store.load("r")).record
    assert (record.status, record.due_at, record.head) == (status, due_at, 3)
    assert list(await store.runs(RunQuery())) == [record]


async def test_the_last_of_several_events_decides(store: AnyStore) -> None:
    await store.create(run())
    both = [event(1, e.Claimed("o", 0), ""), event(2, e.Waiting("x", until=5.0), "")]
    await store.append("r", both, expect=0, epoch=0)
    record = (await store.load("r")).record
    assert (record.status, record.due_at) == ("waiting", 5.0)


async def test_the_end_gives_the_lease_up_and_keeps_the_epoch(store: AnyStore) -> None:
    await store.create(run())
    epoch = await store.claim("r", "me", 10) or 0
    await store.append("r", [event(1, e.RunEnded("failed"), "")], expect=0, epoch=epoch)
    record = (await store.load("r")).record
    assert (record.owner, record.lease_until, record.epoch) == (None, None, epoch)
    assert await store.renew("r", epoch, 10) is None
    assert await store.claim("r", "other", 10) == 2 * GENERATION  # retry reopens an ended run


async def test_who_is_cancelled_still_learns_what_was_written(store: AnyStore) -> None:
    answers: list[object] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.create(run())
        answers.append(await store.claim("r", "me", 10))
        answers.append(list(await store.append("r", done(1), expect=0, epoch=GENERATION)))
        answers.append(list(await store.renew("r", GENERATION, 10) or ()))
        await store.release("r", GENERATION)
        answers.append("released")
    assert answers == [GENERATION, [], [], "released"]
    record = (await store.load("r")).record
    assert (record.head, record.owner) == (1, None)


# ---- claim, renew, release


async def test_a_claim_takes_the_next_generation(store: AnyStore, clock: Clock) -> None:
    await store.create(run())
    assert await store.claim("r", "me", 10) == GENERATION
    record = (await store.load("r")).record
    assert (record.owner, record.epoch, record.lease_until) == ("me", GENERATION, 1010.0)
    assert record.status == "pending"


async def test_a_living_lease_is_respected(store: AnyStore, clock: Clock) -> None:
    await store.create(run())
    await store.claim("r", "me", 10)
    assert await store.claim("r", "other", 10) is None
    clock.now += 10
    assert await store.claim("r", "other", 10) is None
    clock.now += 0.01
    assert await store.claim("r", "other", 10) == 2 * GENERATION


async def test_the_owner_may_claim_again(store: AnyStore) -> None:
    await store.create(run())
    await store.claim("r", "me", 10)
    assert await store.claim("r", "me", 10) == 2 * GENERATION


async def test_a_dead_owners_lease_is_taken_at_once(store: AnyStore) -> None:
    code = "from flowkit.owner import this_owner; print(this_owner())"
    found = await anyio.run_process([sys.executable, "-c", code], stderr=None)
    dead = found.stdout.decode().strip()
    for name, owner in (("dead", dead), ("alive", this_owner())):
        await store.create(run(name))
        assert await store.claim(name, owner, 1000) == GENERATION
    free = await store.runs(RunQuery(free_at=1001.0))
    assert [record.run_id for record in free] == ["dead"]
    assert await store.claim("dead", "me", 10) == 2 * GENERATION
    assert await store.claim("alive", "me", 10) is None


async def test_of_many_claims_one_wins(store: AnyStore) -> None:
    await store.create(run())
    won: list[int] = []

    async def claim(owner: str) -> None:
        epoch = await store.claim("r", owner, 10)
        if epoch is not None:
            won.append(epoch)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(claim, f"owner-{number}")
    assert won == [GENERATION]


async def test_a_token_wins_over_smaller_epochs_only(store: AnyStore) -> None:
    await store.create(run())
    assert await store.claim("r", "a", 1000, token=5) == 5
    assert await store.claim("r", "b", 1000, token=5) is None
    assert await store.claim("r", "b", 1000, token=4) is None
    assert await store.claim("r", "b", 1000, token=6) == 6  # whatever the lease says
    await store.release("r", 6)
    assert await store.claim("r", "a", 1000, token=6) is None
    assert await store.claim("r", "a", 1000) == GENERATION
    assert await store.claim("r", "b", 1000, token=7) is None
    assert await store.claim("r", "b", 1000, token=GENERATION + 3) == GENERATION + 3
    await store.release("r", GENERATION + 3)
    assert await store.claim("r", "b", 1000) == 2 * GENERATION
    with pytest.raises(ValueRefused):
        await store.claim("r", "b", 1000, token=2**63)
    assert await store.claim("r", "b", 1000, token=2**63 - 1) == 2**63 - 1


async def test_a_lease_is_renewed_by_its_epoch(store: AnyStore, clock: Clock) -> None:
    await store.create(run())
    assert await store.renew("r", 0, 10) is None  # nobody's
    first = await store.claim("r", "me", 10) or 0
    clock.now += 20
    assert list(await store.renew("r", first, 10) or ()) == []  # late, but nobody took it
    assert await store.renew("r", first, 10) is not None
    assert (await store.load("r")).record.lease_until == 1030.0
    clock.now += 11
    second = await store.claim("r", "other", 10) or 0
    assert await store.renew("r", first, 10) is None
    assert await store.renew("r", second, 10) is not None


async def test_a_release_needs_the_epoch(store: AnyStore) -> None:
    await store.create(run())
    first = await store.claim("r", "me", 10) or 0
    second = await store.claim("r", "me", 10) or 0
    await store.release("r", first)
    assert (await store.load("r")).record.owner == "me"
    await store.release("r", second)
    await store.release("r", second)
    record = (await store.load("r")).record
    assert (record.owner, record.lease_until, record.epoch) == (None, None, second)
    assert await store.renew("r", second, 10) is None
    assert await store.claim("r", "other", 10) == 3 * GENERATION


# ---- the inbox

MESSAGES = [
    Message("b", "signal", "go", Value.of('{"x":"\\ud800"}')),
    Message("a", "decide", "plan/t1/a", Value.of("1"), "done"),
    Message("ü", "cancel", "why \ud800\x00 \N{SNOWMAN}"),
    Message("big", "signal", "go", Value(None, "d" * 64, 70_000, 3)),
]


async def test_messages_wait_in_order_until_an_event_consumes_them(store: AnyStore) -> None:
    await store.create(run())
    epoch = await store.claim("r", "me", 10) or 0
    for message in MESSAGES:
        await store.post("r", message)
    assert list(await store.renew("r", epoch, 10) or ()) == MESSAGES
    seen = await store.append("r", done(1), expect=0, epoch=epoch)
    assert list(seen) == MESSAGES
    ended = [
        event(2, e.Signalled("go", message="b"), ""),
        event(3, e.Decided("done", message="a")),
    ]
    seen = await store.append("r", ended, expect=1, epoch=epoch)
    assert list(seen) == MESSAGES[2:]
    ended = [event(4, e.CancelRequested("x", message="ü"), ""), event(5)]
    assert list(await store.append("r", ended, expect=3, epoch=epoch)) == MESSAGES[3:]
    assert list(await store.renew("r", epoch, 10) or ()) == MESSAGES[3:]


async def test_a_message_is_delivered_once_however_often_it_is_posted(store: AnyStore) -> None:
    await store.create(run())
    await store.create(run("other"))
    first, again = Message("m", "signal", "one"), Message("m", "signal", "two")
    await store.post("r", first)
    await store.post("r", first)
    await store.post("r", again)
    assert list(await store.append("r", [], expect=0, epoch=0)) == [first]
    consuming = [event(1, e.Signalled("one", message="m"), "")]
    assert list(await store.append("r", consuming, expect=0, epoch=0)) == []
    await store.post("r", first)
    assert list(await store.append("r", [], expect=1, epoch=0)) == []
    await store.post("other", first)  # the id is known in its own run only
    assert list(await store.append("other", [], expect=0, epoch=0)) == [first]


async def test_a_refused_append_consumes_nothing(store: AnyStore) -> None:
    await store.create(run())
    await store.post("r", MESSAGES[0])
    with pytest.raises(JournalConflict):
        await store.append("r", [event(2, e.Signalled("go", message="b"))], expect=1, epoch=0)
    assert list(await store.append("r", [], expect=0, epoch=0)) == MESSAGES[:1]


async def test_messages_may_come_to_a_run_that_has_ended(store: AnyStore) -> None:
    await store.create(run())
    await store.append("r", [event(1, e.RunEnded("failed"), "")], expect=0, epoch=0)
    await store.post("r", MESSAGES[0])
    assert [found.run_id for found in await store.runs(RunQuery(messages=True))] == ["r"]


@pytest.mark.parametrize(
    "message",
    [
        Message("\ud800", "cancel"),
        Message("m", "decide", how="\ud800"),
        Message("m\0", "cancel"),
    ],
)
async def test_messages_that_cannot_be_stored_are_refused(
    store: AnyStore, message: Message
) -> None:
    await store.create(run())
    with pytest.raises(ValueRefused):
        await store.post("r", message)


# ---- queries


async def ids(store: AnyStore, query: RunQuery) -> list[str]:
    return [record.run_id for record in await store.runs(query)]


async def test_runs_are_listed_newest_first_and_limited(store: AnyStore) -> None:
    for name, created_at in (("a", 2.0), ("b", 3.0), ("c", 1.0), ("d", 3.0)):
        await store.create(run(name, created_at))
    assert await ids(store, RunQuery()) == ["d", "b", "a", "c"]
    assert await ids(store, RunQuery(limit=2)) == ["d", "b"]
    assert await ids(store, RunQuery(limit=0)) == []
    assert await ids(store, RunQuery(limit=-1)) == []
    assert await ids(store, RunQuery(since=2.0)) == ["d", "b", "a"]


async def test_a_prefix_is_taken_as_it_stands(store: AnyStore) -> None:
    names = ["a_b", "axb", "A_b", "a%b", "aüb", "a", "b-a_b", "a\\b", "a_"]
    for name in names:
        await store.create(run(name))
    for prefix in (
        "a_",
        "a%",
        "a",
        "A",
        "aü",
        "",
        "a\\",
        "%",
        "_",
        "a_bb",
        "b-",
        "'",
        "\ud800",
        "\0",
    ):
        assert sorted(await ids(store, RunQuery(prefix=prefix))) == sorted(
            name for name in names if name.startswith(prefix)
        )


async def test_all_conditions_of_a_query_must_hold(store: AnyStore) -> None:
    await store.create(run("a", 1.0, "w1"))
    await store.create(run("b", 2.0, "w1"))
    await store.create(run("c", 3.0, "w2"))
    await store.append("b", [event(1, e.RunEnded("failed"), "")], expect=0, epoch=0)
    assert await ids(store, RunQuery(workflow="w1")) == ["b", "a"]
    assert await ids(store, RunQuery(workflow="w")) == []
    assert await ids(store, RunQuery(run_id="b")) == ["b"]
    assert await ids(store, RunQuery(run_id="' OR 1=1 --")) == []
    assert await ids(store, RunQuery(status=frozenset({"failed"}))) == ["b"]
    assert await ids(store, RunQuery(status=frozenset({"failed", "pending"}))) == ["c", "b", "a"]
    assert await ids(store, RunQuery(status=frozenset())) == []
    assert await ids(store, RunQuery(workflow="w1", status=frozenset({"pending"}))) == ["a"]
    assert await ids(store, RunQuery(workflow="w1", since=1.5, run_id="a")) == []


async def test_due_runs_are_those_that_wait_until_then(store: AnyStore) -> None:
    for name, until in (("early", 5.0), ("late", 50.0), ("signal", None)):
        await store.create(run(name))
        waiting = [event(1, e.Waiting("x", until=until), "")]
        await store.append(name, waiting, expect=0, epoch=0)
    await store.create(RunRecord("pending", "wf", "h", 1.0, due_at=1.0))
    assert await ids(store, RunQuery(due_at=4.9)) == []
    assert await ids(store, RunQuery(due_at=5.0)) == ["early"]
    assert sorted(await ids(store, RunQuery(due_at=99.0))) == ["early", "late"]


async def test_free_runs_have_not_ended_and_nobody_drives_them(store: AnyStore) -> None:
    for name in ("pending", "owned", "ended", "waiting"):
        await store.create(run(name))
    await store.claim("owned", "me", 10)
    await store.append("ended", [event(1, e.RunEnded("failed"), "")], expect=0, epoch=0)
    await store.append("waiting", [event(1, e.Waiting("x"), "")], expect=0, epoch=0)
    assert sorted(await ids(store, RunQuery(free_at=1010.0))) == ["pending", "waiting"]
    assert sorted(await ids(store, RunQuery(free_at=1010.1))) == ["owned", "pending", "waiting"]
    assert await ids(store, RunQuery(free_at=1e9, workflow="x")) == []


async def test_runs_with_messages_are_found(store: AnyStore) -> None:
    await store.create(run("a"))
    await store.create(run("b"))
    await store.post("a", MESSAGES[0])
    assert await ids(store, RunQuery(messages=True)) == ["a"]
    await store.append("a", [event(1, e.Signalled("go", message="b"))], expect=0, epoch=0)
    assert await ids(store, RunQuery(messages=True)) == []


# ---- artifacts


async def test_bytes_are_kept_once_by_content(store: AnyStore) -> None:
    for data in (b"", b"x", bytes(range(256)) * 1000):
        name = await store.put(data)
        assert name == hashlib.sha256(data).hexdigest()
        assert await store.put(data) == name
        assert await store.get(name) == data


async def test_bytes_that_are_not_there_are_told_so(store: AnyStore) -> None:
    for name in ("0" * 64, "", "../etc/passwd", "\N{SNOWMAN}", "\0", "\ud800"):
        with pytest.raises(StoreUnusable, match="not in this store"):
            await store.get(name)


# ---- together


async def test_many_runs_at_once_keep_their_journals_apart(store: AnyStore) -> None:
    async def drive(name: str) -> None:
        await store.create(run(name))
        epoch = await store.claim(name, "me", 10) or 0
        for seq in range(1, 11):
            payload = e.StepDone("h", Value.of(f'"{name}-{seq}"'))
            await store.append(name, [event(seq, payload)], expect=seq - 1, epoch=epoch)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(drive, f"r{number}")
    for number in range(50):
        journal = await store.load(f"r{number}")
        sent = [e.StepDone("h", Value.of(f'"r{number}-{seq}"')) for seq in range(1, 11)]
        assert [found.payload for found in journal.events] == sent


async def test_of_two_writers_at_one_place_one_wins(store: AnyStore) -> None:
    await store.create(run())
    lost: list[int] = []

    async def write(key: str) -> None:
        try:
            await store.append("r", [event(1, None, key)], expect=0, epoch=0)
        except JournalConflict:
            lost.append(1)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(write, f"k{number}")
    assert len(lost) == 9
    assert len((await store.load("r")).events) == 1
