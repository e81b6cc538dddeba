"""A run as one file, carried between stores of every kind."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import flowkit.events as ev
from flowkit import Artifact, Context, Engine, Ref, Workflow, workflow
from flowkit.changes import OnChange
from flowkit.errors import ResumeError, RunConflict, RunNotFound, StoreUnusable
from flowkit.events import Event
from flowkit.handle import RunHandle
from flowkit.history.file import BadRunFile, read_run, write_run
from flowkit.nodes import Plan, planner, tool
from flowkit.ports import RunQuery
from flowkit.store import MemoryStore, SqlStore
from flowkit.values import INLINE_MAX, Value
from tests.contract.helpers import EVERY_KIND, AnyStore, Clock, run

KINDS = ("memory", "sqlite", "postgres")
POLICIES: dict[str, OnChange] = {"rerun": "rerun", "keep": "keep"}


class Topic(BaseModel):
    text: str


class Folder(BaseModel):
    """Larger than what stands in an event, and with a file in it."""

    pad: str
    page: Artifact


class Report(BaseModel):
    text: str
    page: Artifact


@tool
async def gather(ctx: Context, topic: Topic) -> Folder:
    inner = await ctx.artifact(f"the inner page on {topic.text}", name="inner.txt")
    page = await ctx.artifact(f"see {inner.sha256}", name="page.txt", media_type="text/plain")
    return Folder(pad="ü\u2028" * INLINE_MAX, page=page)


@tool
async def look(ctx: Context, topic: Topic) -> str:
    return f"looked at {topic.text}"


@planner(tools=[look])
async def plan(ctx: Context, folder: Folder) -> Plan | str:
    if ctx.turns:
        return str(dict(ctx.turns[0].results))
    return Plan([look.step(Topic(text=each), id=each) for each in ("a", "b")], again=True)


@tool
async def approve(ctx: Context, folder: Folder, found: str) -> Report:
    answer = await ctx.signal("approval")
    return Report(text=f"{found} {answer}", page=folder.page)


@workflow
def carried(topic: Ref[Topic]) -> Ref[Report]:
    folder = gather(topic)
    return approve(folder, plan(folder))


@pytest.fixture
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[dict[str, AnyStore]]:
    """An open store of each kind."""
    async with AsyncExitStack() as stack:
        found: dict[str, AnyStore] = {"memory": MemoryStore()}
        places = {
            "sqlite": tmp_path / "runs.db",
            "postgres": request.getfixturevalue("server").fresh(),
        }
        for kind, place in places.items():
            found[kind] = await stack.enter_async_context(SqlStore(place, durability="process"))
        yield found


async def begun(store: AnyStore, *, end: bool) -> None:
    """Run `carried` to its end, or to its wait."""
    async with Engine(store, model=None, poll_s=0.02, suspend_after_s=0.01) as engine:
        handle = await engine.start(carried, Topic(text="cranes"), run_id="one")
        if end:
            await engine.signal("one", "approval", "yes")
            await handle.result()
        else:
            await waits(handle)


async def waits(handle: RunHandle[Any]) -> None:
    """Until the run is put to rest at its wait."""
    async with aclosing(handle.events()) as seen:
        async for event in seen:
            if isinstance(event.payload, ev.Waiting) and not event.key:
                break


async def written(store: AnyStore, run_id: str = "one") -> io.BytesIO:
    file = io.BytesIO()
    await write_run(store, store, run_id, file.write)
    file.seek(0)
    return file


async def events(store: AnyStore, run_id: str = "one") -> Sequence[Event]:
    return (await store.load(run_id)).events


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("origin", KINDS)
async def test_a_run_is_the_same_in_every_store(
    stores: dict[str, AnyStore], origin: str, into: str
) -> None:
    await begun(stores[origin], end=True)
    file = await written(stores[origin])
    name = "one" if into != origin else "two"
    record = await read_run(file, stores[into], stores[into], run_id=name)
    assert (record.status, record.owner, record.run_id) == ("succeeded", None, name)
    assert await events(stores[into], name) == await events(stores[origin])
    again = await written(stores[into], name)
    assert (
        again.read().partition(b"\n")[2].splitlines()[:-1]
        == (file.getvalue().partition(b"\n")[2].splitlines()[:-1])
    )


def deployed(version: str) -> Workflow[int, int]:
    @tool
    async def first(ctx: Context, n: int) -> int:
        return n + 1

    @tool(version=version)
    async def second(ctx: Context, n: int) -> int:
        return n * int(version)

    @tool
    async def third(ctx: Context, n: int) -> int:
        return n + int(await ctx.signal("go"))

    @workflow
    def deployed(n: Ref[int]) -> Ref[int]:
        return third(second(first(n)))

    return deployed


@pytest.mark.parametrize("origin", KINDS)
async def test_a_fork_and_a_run_that_went_on_after_a_deploy_are_the_same_in_every_store(
    stores: dict[str, AnyStore], origin: str
) -> None:
    store = stores[origin]
    old = deployed("1")
    async with Engine(store, poll_s=0.02, suspend_after_s=0.01) as engine:
        for name in POLICIES:
            await waits(await engine.start(old, 1, run_id=name))
    new: Workflow[int, int] = deployed("5")
    given = {"rerun": 10, "keep": 2, "fork": 51, "waits": None}
    async with Engine(store, workflows=[new], poll_s=0.02) as engine:
        for name, policy in POLICIES.items():
            await engine.signal(name, "go", 0)
            assert await engine.resume(name, on_change=policy) == given[name]
        fork = await engine.fork("rerun", set={"second": 50}, new_id="fork")
        await fork.signal("go", 1)
        assert await fork.result() == 51
        await engine.fork("fork", at="third", new_id="waits")
    for into in KINDS:
        for name, result in given.items():
            if into == origin and result is None:
                continue  # it has not ended, so it keeps its id
            i_name = name if result is None else f"i-{name}"
            record = await read_run(
                await written(store, name), stores[into], stores[into], run_id=i_name
            )
            assert (record.status == "succeeded") == (result is not None)
            assert await events(stores[into], i_name) == await events(store, name)
        async with Engine(stores[into], workflows=[new], poll_s=0.02) as engine:
            for name, result in given.items():
                if result is not None:
                    assert await engine.resume(f"i-{name}") == result
                elif into != origin:
                    await engine.signal(name, "go", 2)
                    assert await engine.resume(name) == 52


async def test_a_fork_that_is_half_made_is_not_exported(store: AnyStore) -> None:
    await store.create(run("one"))
    await store.append("one", [Event(1, 1.0, EVERY_KIND[0])], expect=0, epoch=0)
    await store.create(replace(run("half"), base="one", base_seq=1))
    with pytest.raises(BadRunFile, match=r"only half made.*fork 'one' again"):
        await written(store, "half")


@pytest.mark.parametrize("into", ["sqlite", "postgres"])
async def test_an_imported_run_is_resumed_and_its_files_are_there(
    stores: dict[str, AnyStore], into: str
) -> None:
    await begun(stores["memory"], end=False)
    store = stores[into]
    record = await read_run(await written(stores["memory"]), store, store)
    assert record.status == "waiting"
    async with Engine(store, workflows=[carried], poll_s=0.02) as engine:
        await engine.signal("one", "approval", "yes")
        result = await engine.resume("one")
        assert result.text == "{'a': 'looked at a', 'b': 'looked at b'} yes"
        page = (await store.get(result.page.sha256)).decode()
        assert (await store.get(page.removeprefix("see "))) == b"the inner page on cranes"
        assert await engine.run(carried, Topic(text="cranes"), run_id="one") == result
    kinds = [event.kind for event in await events(store)]
    assert kinds.count("step_done") == len(["gather", "look", "look", "plan", "approve"])


async def test_a_run_of_that_id_is_left_alone(stores: dict[str, AnyStore]) -> None:
    await begun(stores["memory"], end=True)
    file = await written(stores["memory"])
    for store in stores.values():
        if store is not stores["memory"]:
            await store.create(run("one"))
            await store.append("one", [Event(1, 1.0, EVERY_KIND[0])], expect=0, epoch=0)
        before = await store.load("one")
        with pytest.raises(RunConflict, match="--as"):
            await read_run(file, store, store)
        assert await store.load("one") == before


@pytest.mark.parametrize("into", KINDS)
async def test_a_run_that_has_not_ended_keeps_its_id_and_so_its_idempotency_keys(
    stores: dict[str, AnyStore], into: str
) -> None:
    await begun(stores["memory"], end=False)
    file = await written(stores["memory"])
    with pytest.raises(ResumeError, match=r"'one' has not ended.*under its own id"):
        await read_run(file, stores[into], stores[into], run_id="two")
    assert {each.run_id for each in await stores[into].runs(RunQuery())} <= {"one"}
    with pytest.raises(RunConflict, match="into another database"):
        await read_run(file, stores["memory"], stores["memory"])
    if into != "memory":
        assert (await read_run(file, stores[into], stores[into], run_id="one")).run_id == "one"


class _Failing:
    """Gives up in the middle of an import, as a killed process does."""

    def __init__(self, store: AnyStore, at: str) -> None:
        self._store = store
        self._at = at

    def __getattr__(self, name: str) -> object:
        if name == self._at:
            raise ConnectionError(name)
        return getattr(self._store, name)


@pytest.mark.parametrize("at", ["put", "create", "append"])
async def test_an_interrupted_import_is_done_again(stores: dict[str, AnyStore], at: str) -> None:
    await begun(stores["memory"], end=True)
    file, failing = await written(stores["memory"]), _Failing(stores["sqlite"], at)
    with pytest.raises(ConnectionError):
        await read_run(file, failing, failing)  # type: ignore[arg-type]
    found = await stores["sqlite"].runs(RunQuery())
    assert all(record.head == 0 for record in found)
    assert (await read_run(file, stores["sqlite"], stores["sqlite"])).status == "succeeded"
    assert await events(stores["sqlite"]) == await events(stores["memory"])


async def test_a_run_that_is_not_there_is_not_exported(stores: dict[str, AnyStore]) -> None:
    for store in stores.values():
        with pytest.raises(RunNotFound):
            await written(store)
        await store.create(run("one"))
        with pytest.raises(BadRunFile, match="no event"):
            await written(store)


async def test_a_missing_large_value_is_no_export_and_a_missing_file_is_told(
    store: AnyStore, clock: Clock
) -> None:
    big = Value(None, "d" * 64, 70_000, 12)
    await store.create(run("one"))
    named = Value.of('{"sha256":"' + "a" * 64 + '","other":"' + "b" * 64 + '"}')
    first = [Event(1, 1.0, ev.RunStarted("wf", EVERY_KIND[0].graph, named))]  # type: ignore[union-attr]
    await store.append("one", first, expect=0, epoch=0)
    told = await write_run(store, store, "one", io.BytesIO().write)
    assert list(told.missing) == ["a" * 64]
    await store.append("one", [Event(2, 1.0, ev.StepDone("h", big), "a")], expect=1, epoch=0)
    with pytest.raises(StoreUnusable, match="d" * 64):
        await written(store)
