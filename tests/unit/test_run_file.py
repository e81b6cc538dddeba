"""The file of a run: what is written is read back, and whatever is not that is refused, by its line."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import flowkit.events as ev
from flowkit.events import Event
from flowkit.graph import INPUT, Graph, NodeSpec, Source, Step
from flowkit.history.file import BadRunFile, check_run, read_run, write_run
from flowkit.ports import RunQuery, RunRecord
from flowkit.state import State
from flowkit.store import MemoryStore
from flowkit.values import INLINE_MAX, Value, combine, compact, digest

GRAPH = Graph((Step("a", ("a",), (Source(INPUT),)),), "a", {"a": NodeSpec("a", "tool", "f")})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def journal(given: str, gave: Value) -> list[Event]:
    """A run of one step that has ended."""
    state = State()
    events: list[Event] = []

    def add(payload: ev.Payload, key: str = "") -> None:
        events.append(Event(len(events) + 1, 12.25, payload, key, 0, 1 if key else 0))
        state.apply(events[-1])

    add(ev.RunStarted("wf", GRAPH, Value.of(given)))
    add(ev.Claimed("somebody", 3 << 40))
    add(ev.StepDone(state.input_hash(state.slots["a"]), gave), "a")
    add(ev.RunEnded("succeeded", step="a"))
    return events


async def export(events: Sequence[Event], *artifacts: bytes, given: str = "1") -> bytes:
    store = MemoryStore()
    for each in artifacts:
        await store.put(each)
    await store.create(RunRecord("r", "wf", combine(["wf", given]), 1.5))
    await store.append("r", events, expect=0, epoch=0)
    file = io.BytesIO()
    await write_run(store, store, "r", file.write)
    return file.getvalue()


def exported(
    given: str = "1", gave: Value | None = None, *artifacts: bytes, extra: Sequence[Event] = ()
) -> bytes:
    events = [*journal(given, gave or Value.of('"x"')), *extra]
    return anyio.run(partial(export, events, *artifacts, given=given))


async def imported(raw: bytes) -> MemoryStore:
    store = MemoryStore()
    await read_run(io.BytesIO(raw), store, store)
    return store


def large(items: int) -> tuple[Value, bytes]:
    raw = compact(["x" * INLINE_MAX] * items).encode()
    return Value(None, digest(raw.decode()), len(raw), items), raw


@given(JSON, JSON)
@example("\u2028\r\n\0", {"\ud800": 1e308})
def test_what_is_written_is_read_back(given: Any, gave: Any) -> None:
    async def go() -> None:
        text = compact(given)
        events = journal(text, Value.of(compact(gave)))
        store = await imported(await export(events, given=text))
        back = await store.load("r")
        assert list(back.events) == events
        row = back.record
        assert (row.created_at, row.epoch, row.status) == (1.5, 3 << 40, "succeeded")

    anyio.run(go)


def test_artifacts_are_found_through_each_other_and_kept_once() -> None:
    inner, text = b"\x00\xff", b"of no run"
    sha = hashlib.sha256(inner).hexdigest()
    outer = f'["{sha}","{"0" * 64}","{sha}{"f" * 6}"]'.encode()
    gave = Value.of(compact({"sha256": hashlib.sha256(outer).hexdigest()}))
    store = anyio.run(imported, exported("1", gave, inner, outer, text))
    assert {data for data, _ in store._artifacts.values()} == {inner, outer}


WHOLE = exported()
PIECES = exported("1", large(3)[0], large(3)[1])


@given(st.data())
@settings(max_examples=200)
def test_a_file_that_was_edited_anywhere_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(WHOLE) - 1))
    new = data.draw(st.binary(max_size=3))
    end = at + data.draw(st.integers(0, 3))
    edited = WHOLE[:at] + new + WHOLE[end:]
    if edited == WHOLE:
        return
    with pytest.raises(BadRunFile, match=r"line \d+"):
        check_run(io.BytesIO(edited))


def test_a_file_that_is_cut_anywhere_is_refused_and_nothing_is_imported() -> None:
    async def go() -> None:
        for at in range(len(WHOLE)):
            store = MemoryStore()
            with pytest.raises(BadRunFile, match=r"^line \d+.*Nothing was imported\."):
                await read_run(io.BytesIO(WHOLE[:at]), store, store)
            assert not await store.runs(RunQuery())
            assert not store._artifacts

    anyio.run(go)


def sealed(lines: Sequence[bytes]) -> bytes:
    """Lines with an end that fits them, as a hostile file has it."""
    body = b"".join(line + b"\n" for line in lines)
    end = {"lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


Lines = list[dict[str, Any]]


def lines_of(raw: bytes) -> Lines:
    return [json.loads(line) for line in raw.splitlines()][:-1]


def changed(change: Callable[[Lines], object], raw: bytes = WHOLE) -> bytes:
    lines = lines_of(raw)
    change(lines)
    return sealed([json.dumps(line).encode() for line in lines])


def event(lines: Lines, number: int) -> dict[str, Any]:
    found: dict[str, Any] = lines[number]["event"]
    return found


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "line 1: the file is empty"),
    "no JSON": (b"SQLite format 3\0\n", "line 1: this is no exported run"),
    "no UTF-8": (b'"\xff"\n', "line 1: this is no exported run"),
    "another file": (b'{"format":"else"}\n', "line 1: this is no exported run"),
    "a list": (b"[]\n", "line 1: this is no exported run"),
    "deep": (b'{"format":' + b"[" * 100_000 + b"\n", "line 1 cannot be read"),
    "deep data": (
        changed(lambda lines: event(lines, 2).update(data="[" * 100_000)),
        "line 3 cannot be read",
    ),
    "newer": (
        changed(lambda lines: lines[0].update(version=2, flowkit="9.1")),
        "line 1: the file has format 2, written by flowkit '9.1'.*Update flowkit",
    ),
    "a huge version": (
        changed(lambda lines: lines[0].update(version=10**400)),
        "line 1: the file has format 1000",
    ),
    "an id that is no name": (
        changed(lambda lines: lines[0]["run"].update(id="../x")),
        "line 1 cannot be read: run id '../x'",
    ),
    "no time": (
        changed(lambda lines: lines[0]["run"].update(created_at="yesterday")),
        "line 1: created_at",
    ),
    "another input": (
        changed(lambda lines: lines[0]["run"].update(input_hash="f" * 32)),
        "line 2: the input has another hash",
    ),
    "another workflow": (
        changed(lambda lines: lines[0]["run"].update(workflow="other")),
        "line 2: it is a run of 'wf'",
    ),
    "a gap": (changed(lambda lines: lines.pop(2)), "line 3: event 2 is expected, not 3"),
    "twice": (changed(lambda lines: lines.insert(2, lines[2])), "line 4: event 3 is expected"),
    "a huge seq": (
        changed(lambda lines: event(lines, 3).update(seq=10**400)),
        "line 4: event 3 is expected",
    ),
    "infinite": (
        sealed([line.replace(b"12.25", b"1e999", 1) for line in WHOLE.splitlines()[:-1]]),
        "line 2.*(Unix time|cannot be read)",
    ),
    "a huge attempt": (
        changed(lambda lines: event(lines, 3).update(attempt=2**31)),
        "line 4: attempt=2147483648",
    ),
    "an unknown kind": (
        changed(lambda lines: event(lines, 3).update(kind="step_dreamt")),
        "line 4 cannot be read: unknown kind of event 'step_dreamt'",
    ),
    "a live event": (
        changed(lambda lines: event(lines, 3).update(kind="progress", data='{"data":1}')),
        "line 4: event 3: events of kind 'progress'",
    ),
    "a huge epoch": (
        changed(lambda lines: event(lines, 2).update(data=f'{{"owner":"x","epoch":{2**63}}}')),
        "line 3: event 2: epoch",
    ),
    "no step of it": (
        changed(lambda lines: event(lines, 3).update(key="b")),
        "line 4: event 3 .step_done. does not follow",
    ),
    "an alternative that is none": (
        changed(lambda lines: event(lines, 3).update(alternative=7)),
        "line 4: event 3 .step_done. does not follow",
    ),
    "half a character": (
        changed(lambda lines: event(lines, 3).update(key="a\0")),
        r"line 4 cannot be read: event 3 .* U\+0000",
    ),
    "other inputs": (
        changed(lambda lines: event(lines, 3).update(data='{"input_hash":"0"}')),
        "line 4: event 3 .*other inputs",
    ),
    "a step that is none is to be done again, by a graph that is none": (
        changed(
            lambda lines: event(lines, 4).update(
                kind="rewound",
                data='{"keys":["b"],"graph":{"steps":[],"output":"z","nodes":{}}}',
            )
        ),
        "line 5: its graph cannot run",
    ),
    "no beginning": (
        changed(
            lambda lines: event(lines, 1).update(
                kind="claimed", data='{"owner":"x","epoch":1}', value=None
            )
        ),
        "line 2: a run begins with run_started",
    ),
    "an unknown line": (
        changed(lambda lines: lines.append({"else": 1})),
        "line 6: it is of no kind that is known",
    ),
    "no events": (changed(lambda lines: lines.__delitem__(slice(1, 5))), "line 2: the run has no"),
    "after the end": (WHOLE + b"{}\n", "line 7: it stands after the last line"),
    "a wrong count": (WHOLE.replace(b'"lines":5', b'"lines":4'), "line 6: 4 lines should"),
    "no artifact": (changed(lambda lines: lines.pop(), PIECES), "line 4: event 3 .* not in the"),
    "another artifact": (
        changed(lambda lines: lines[-1].update(base64=base64.b64encode(b"[]").decode()), PIECES),
        "line 6: artifact .* another content",
    ),
    "no base64": (
        changed(lambda lines: lines[-1].update(base64="$$$"), PIECES),
        "line 6 cannot be read",
    ),
    "a billion items": (
        changed(
            lambda lines: event(lines, 3).update(
                data=event(lines, 3)["data"].replace('"items":3', f'"items":{10**12}')
            ),
            PIECES,
        ),
        "line 4: event 3: its value is not of the size",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_its_line(name: str) -> None:
    raw, told = HOSTILE[name]

    async def go() -> None:
        store = MemoryStore()
        with pytest.raises(BadRunFile, match=f"(?s)^{told}.*Nothing was imported"):
            await read_run(io.BytesIO(raw), store, store)
        assert not await store.runs(RunQuery())
        assert not store._artifacts

    anyio.run(go)


def test_the_files_that_hostile_ones_are_made_from_are_read() -> None:
    assert [each.kind for each in check_run(io.BytesIO(changed(lambda lines: None))).events] == [
        "run_started", "claimed", "step_done", "run_ended"
    ]  # fmt: skip
    assert check_run(io.BytesIO(changed(lambda lines: None, PIECES))).artifacts
