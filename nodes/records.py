"""`ToolRecords`: what the store's runs tell of each tool, for a router.

    records = ToolRecords(store)
    engine = Engine(store, resources=[records])

A run that has ended is read once. Of runs that are going on, the choices that were made through this
object count as well, until the run has ended and its journal says which of them held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import ValidationError

import flowkit.events as ev
from flowkit.errors import RunNotFound
from flowkit.events import FINAL, Event
from flowkit.graph import Graph, Step
from flowkit.nodes.gating import Record, ToolChoice
from flowkit.ports import RunQuery, RunRecord, Store

RUNS_MAX: Final = 200
EVENTS_MAX: Final = 50_000
"""Events that are read at most: about half a second, once."""

FIND_TOOLS: Final = "find_tools"
"""What the names of routers' own tools end with."""


class ToolRecords:
    """Successes, failures, seconds and choices of tools in the newest runs that have ended.

    Args:
        store: the engine's, or any that has runs with the same tools.
        runs_max, events_max: how far back it looks, whichever comes first.

    An attempt counts, not a step: a tool that succeeds at its third try has one success and two
    failures. A planner's time is that of its own turns.
    """

    def __init__(
        self, store: Store, *, runs_max: int = RUNS_MAX, events_max: int = EVENTS_MAX
    ) -> None:
        if runs_max < 1 or events_max < 1:
            raise ValueError("runs_max= and events_max= must be 1 or more")
        self._store = store
        self._runs_max, self._events_max = runs_max, events_max
        self._ended: dict[str, dict[str, Record]] = {}
        self._going_on: dict[str, dict[str, Record]] = {}
        self._total: dict[str, Record] = defaultdict(Record)

    async def refresh(self) -> None:
        """Read the runs that have ended since the last time; forget those that are too old."""
        query = RunQuery(status=FINAL, limit=self._runs_max)
        kept: dict[str, dict[str, Record]] = {}
        room = self._events_max
        for record in await self._store.runs(query):
            room -= record.head - record.base_seq
            if room < 0 and kept:
                break
            known = self._ended.get(record.run_id)
            kept[record.run_id] = await self._read(record) if known is None else known
        self._ended = kept
        self._going_on = {
            run_id: each for run_id, each in self._going_on.items() if run_id not in kept
        }
        self._total = defaultdict(Record)
        for run in (*self._ended.values(), *self._going_on.values()):
            for tool, one in run.items():
                self._total[tool].add(one)

    def learn(self, run_id: str, choice: ToolChoice) -> None:
        """Count a choice that was just made in a run."""
        _count(self._going_on.setdefault(run_id, defaultdict(Record)), choice)
        _count(self._total, choice)
        if len(self._going_on) > self._runs_max:  # the oldest may have ended long ago, unseen
            del self._going_on[next(iter(self._going_on))]

    def record(self, tool: str) -> Record:
        """What is known of a tool; of one that never ran, nothing."""
        return self._total.get(tool) or Record()

    async def _read(self, record: RunRecord) -> dict[str, Record]:
        try:
            journal = await self._store.load(record.run_id)
        except RunNotFound:  # deleted in the meantime
            return {}
        return read_events(journal.events, after=record.base_seq)


def read_events(events: Iterable[Event], *, after: int = 0) -> dict[str, Record]:
    """What a journal tells of each tool; events up to `after` are another run's, and do not count."""
    found: dict[str, Record] = defaultdict(Record)
    placed: dict[str, Sequence[str]] = {}
    for event in events:
        match event.payload:
            case ev.RunStarted(graph=graph) | ev.Rewound(graph=Graph() as graph):
                placed |= _nodes("", graph.steps)
            case ev.Planned(steps=steps):
                placed |= _nodes(f"{event.key}/", steps)
            case _:
                pass
        if event.seq > after:
            _take(event, placed, found)
    return dict(found)


def _nodes(prefix: str, steps: Iterable[Step]) -> dict[str, Sequence[str]]:
    return {f"{prefix}{step.key}": step.nodes for step in steps}


def _take(event: Event, placed: dict[str, Sequence[str]], found: dict[str, Record]) -> None:
    payload = event.payload
    if isinstance(payload, ev.ToolAnswered):
        _tried(found[payload.tool], payload.duration_s, failed=payload.error is not None)
        return
    node = _node(event, placed)
    if not node:
        return
    match payload:
        case ev.StepDone(value=value, duration_s=took):
            _tried(found[node], took, failed=False)
            if node.endswith(FIND_TOOLS) and value is not None and value.text is not None:
                try:
                    _count(found, ToolChoice.model_validate_json(value.text))
                except ValidationError:
                    pass  # somebody's own tool of such a name, or a choice of another release
        case ev.AttemptFailed(error=error, duration_s=took) if error.type != "Denied":
            _tried(found[node], took, failed=True)
        case ev.Planned(duration_s=took):
            found[node].seconds += took
        case _:
            pass


def _node(event: Event, placed: dict[str, Sequence[str]]) -> str:
    """Who made an event; a key may end with a round, a turn, or an item's number."""
    key = event.key
    while key and key not in placed:
        key = key[: max(key.rfind("/"), key.rfind("@"), 0)]
    nodes = placed.get(key, ())
    return nodes[event.alternative] if event.alternative < len(nodes) else ""


def _tried(record: Record, took: float, *, failed: bool) -> None:
    record.successes += not failed
    record.failures += failed
    record.seconds += took


def _count(found: dict[str, Record], choice: ToolChoice) -> None:
    contenders = frozenset(choice.contenders)
    chosen = [each.tool for each in choice.tools if each.tool in contenders]
    for name in contenders:
        found[name].share += len(chosen) / len(contenders)
    for name in chosen:
        found[name].chosen += 1
