"""A planner that searches, reads the page that it found, and calculates with the page's table.

Run by test_research_tools.py in a process of its own: `python research_program.py DATABASE PLACE HALT`.
In its HALTth turn the model says so on stdout and never answers, so that the process can be killed there.
"""

from __future__ import annotations

import json
import re
import sys

import anyio
from pydantic import BaseModel

from flowkit import Engine, Ref, workflow
from flowkit.chat import ModelAnswer, ModelRequest, OnDelta
from flowkit.nodes import Planner
from flowkit.nodes.tools import python_tool
from flowkit.nodes.tools.python import Limits
from flowkit.nodes.tools.web import SearXNG, Web, read_page, web_search
from flowkit.store import SqlStore
from flowkit.testing import Reply, ScriptedModel, calls


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    litres: float
    source: str


researcher = Planner(
    "Answer from pages that you have read. Calculate with run_python.",
    name="researcher",
    takes=Question,
    returns=Answer,
    tools=[web_search, read_page, python_tool(limits=Limits(time_s=30))],
)


@workflow
def research(question: Ref[Question]) -> Ref[Answer]:
    return researcher(question)


def turn_of(request: ModelRequest) -> int:
    return 1 + sum(message.role == "assistant" for message in request.messages)


def think(request: ModelRequest, index: int) -> Reply:
    """What a model would do: each call is made of what the one before gave."""
    last = request.messages[-1].content or ""
    match turn_of(request):
        case 1:
            return calls(("web_search", {"query": "lighthouse oil"}))
        case 2:
            return calls(("read_page", {"id": json.loads(last)["hits"][0]["id"]}))
        case 3:
            rows = re.findall(r"\| (\w+) \| ([\d.]+) \|", json.loads(last)["text"])
            code = f"rows = {rows!r}\nsum(float(litres) for _, litres in rows) / len(rows)"
            return calls(("run_python", {"code": code}))
        case _:
            hits = next(each.content or "" for each in request.messages if each.role == "tool")
            found = {
                "litres": float(json.loads(last)["value"]),
                "source": json.loads(hits)["hits"][0]["id"],
            }
            return calls(("answer", found))


class Halting(ScriptedModel):
    """Says when it is asked for a turn, and does not answer it."""

    def __init__(self, halt: int) -> None:
        super().__init__(think)
        self._halt = halt

    async def respond(
        self, request: ModelRequest, *, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        if turn_of(request) == self._halt:
            print("halted", flush=True)
            await anyio.sleep_forever()
        return await super().respond(request, on_delta=on_delta)


async def main(database: str, place: str, halt: int) -> None:
    resources = [Web(allow=frozenset({place})), SearXNG(f"http://{place}")]
    async with Engine(
        SqlStore(database), workflows=[research], model=Halting(halt), resources=resources
    ) as engine:
        answer = await engine.run(research, Question(text="How much oil?"), run_id="oil")
        print(answer.model_dump_json(), flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
