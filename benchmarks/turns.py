"""turns: a ready-made planner asked turn after turn over HTTP; what does our own code cost at turn 300?

over_turn_30   µs of processor a turn in the last 20 turns, over that around turn 30
journal        bytes of a turn's events, over the model's message and the tool's result

Everything that a real run has is there but the socket: the planner, the journal on disk, the openai
SDK and its HTTP client. The server is a function below the client, and its time is taken off.
"""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

import anyio

from benchmarks import flows
from benchmarks.disk import fresh, size_of
from benchmarks.report import Figure, Row, at_most, median
from flowkit import Context, Engine, Ref, Workflow, workflow
from flowkit.chat import ModelAnswer, ToolCall
from flowkit.model import OpenAIModel, Profile
from flowkit.nodes import Planner, tool
from flowkit.store import SqlStore
from flowkit.testing import says
from flowkit.testing.wire import chunks, events

EARLY = 30
AROUND = 10
"""The window of turns is this many on both sides."""

RUNS = 2
"""Runs a repeat: a window takes 60 ms, which is mostly chance on a machine that others use."""


def rows(n: int | None, repeats: int) -> Iterator[Row]:
    yield measure(n or 300, repeats)


def measure(n: int, repeats: int) -> Row:
    runs = [run(n) for _ in range(RUNS * repeats)]
    late, early = median([each.late for each in runs]), median([each.early for each in runs])
    new = len(flows.MESSAGE) + len(flows.RESULT) + len(arguments(n))
    return Row(
        "turns",
        n,
        {
            "us_a_turn_over_turn_30": at_most(late / early, 1.3),
            "us_a_turn": Figure(late),
            "us_a_turn_at_turn_30": Figure(early),
            "page_faults_a_turn": Figure(median([each.faults for each in runs])),
            "server_us_a_turn": Figure(median([each.server for each in runs])),
            "request_kb": Figure(runs[-1].request_bytes / 1000),
            "journal_over_new": at_most(median([each.journal for each in runs]) / new, 1.4),
            "journal_over_turn_30": Figure(median([each.growth for each in runs])),
            "database_over_payload": Figure(median([each.stored for each in runs]) / (n * new)),
        },
        {"durability": "power", "text_bytes": flows.TEXT_BYTES, "time": "processor"},
    )


# ---- the run ----


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of n turns has cost. Times in µs of processor a turn, medians of a window."""

    early: float
    late: float
    server: float
    faults: float
    journal: float
    growth: float
    stored: int
    request_bytes: int


def run(n: int) -> Run:
    with fresh() as folder:
        server = Server([*map(reply, range(1, n + 1)), frames(says("done", reasoning="All read."))])
        anyio.run(_run, folder / "runs.db", n, server)
        written = journal_of(folder / "runs.db")
        stored = size_of(folder)
    early, late = windows(n)
    own = server.own_us()
    return Run(
        early=median([own[turn] for turn in early]),
        late=median([own[turn] for turn in late]),
        server=median([spent * 1e6 for spent in server.spent]),
        faults=(server.faults[-1] - server.faults[late[0] - 1]) / len(late),
        journal=mean(written[turn] for turn in late),
        growth=mean(written[turn] for turn in late) / mean(written[turn] for turn in early),
        stored=stored,
        request_bytes=server.asked[-1],
    )


def windows(n: int) -> tuple[Sequence[int], Sequence[int]]:
    """Turns early and late; of a short run its first half and its last turn."""
    if n < 2 * EARLY:
        return range(1, n // 2 + 1) or [1], [n]
    return range(EARLY - AROUND, EARLY + AROUND + 1), range(n - 2 * AROUND, n + 1)


def flow(turns: int) -> Workflow[str, str]:
    """A planner that may ask for so many turns. It hides nothing, so that the talk only grows."""

    @tool
    async def look(ctx: Context, page: int) -> str:
        return flows.RESULT

    reader = Planner(
        "Read the pages.", takes=str, returns=str, tools=[look], turns_max=turns + 2, name="reader"
    )

    @workflow
    def read(question: Ref[str]) -> Ref[str]:
        return reader(question)

    return read


async def _run(path: Path, n: int, server: Server) -> None:
    import_module("openai")
    http: Any = sys.modules.get("httpx2") or sys.modules["httpx"]
    endless = replace(Profile.named("kimi-k2-thinking"), context_tokens=100_000_000)
    server.http = http
    async with http.AsyncClient(transport=http.MockTransport(server.answer)) as client:
        model = OpenAIModel(
            "kimi-k2-thinking",
            base_url="http://127.0.0.1:9/v1",
            profile=endless,
            http_client=client,
            environ={},
        )
        flown = flow(n)
        async with model, SqlStore(path) as store, Engine(store, model=model) as engine:
            await engine.run(flown, "What do they say?", run_id="measured")


def journal_of(path: Path) -> Mapping[int, int]:
    """Bytes of the events of each turn."""
    found: Counter[int] = Counter()
    columns = ("kind", "key", "data", "value")
    length = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
    with sqlite3.connect(path) as connection:
        for key, size in connection.execute(
            f"SELECT key, {length} FROM flowkit_events WHERE key LIKE '%/t%'"
        ):
            found[int(key.split("/")[1][1:])] += size
    connection.close()
    return found


# ---- the server ----


def arguments(turn: int) -> str:
    return json.dumps({"page": turn})


def reply(turn: int) -> Sequence[bytes]:
    """The model's answer of a turn: 2 KB of reasoning, and a call."""
    call = ToolCall(f"functions.look:{turn}", "look", arguments(turn))
    return frames(replace(says("", reasoning=flows.MESSAGE), content=None, tool_calls=(call,)))


def frames(message: Any) -> Sequence[bytes]:
    reason = "tool_calls" if message.tool_calls else "stop"
    answer = ModelAnswer(message, reason, model="kimi-k2-thinking")
    return events([*chunks(answer, id="c", usage_in_choice=True, usage_asked=True), "data: [DONE]"])


@dataclass(slots=True)
class Server:
    """Gives its replies in their order. `began`: processor seconds as each request came in."""

    replies: Sequence[Sequence[bytes]]
    http: Any = None
    began: list[float] = field(default_factory=list[float])
    spent: list[float] = field(default_factory=list[float])
    asked: list[int] = field(default_factory=list[int])
    faults: list[int] = field(default_factory=list[int])

    async def answer(self, request: Any) -> Any:
        self.began.append(time.process_time())
        entered = time.thread_time()
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        self.asked.append(len(request.content))
        parts = self.replies[len(self.asked) - 1]
        headers = {"content-type": "text/event-stream"}
        response = self.http.Response(200, headers=headers, content=_streamed(parts))
        self.spent.append(time.thread_time() - entered)
        return response

    def own_us(self) -> Sequence[float]:
        """µs of each turn without the server: from its request to the next. Turn 0 is none."""
        pairs = zip(self.began, self.began[1:], self.spent, strict=False)
        return [0.0, *((end - begin - spent) * 1e6 for begin, end, spent in pairs)]


async def _streamed(parts: Sequence[bytes]) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part
