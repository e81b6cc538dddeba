"""What a model writes as a call is one: run, or refused with a word; never the answer of the run."""

from __future__ import annotations

from typing import Any

import pytest

from flowkit import Context, Engine, Ref, workflow
from flowkit.chat import ModelRequest
from flowkit.model import OpenAIModel
from flowkit.nodes import Planner, tool
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel, strict_server

REAL_TIME = True  # a loopback server answers in no virtual time


@tool
async def search(ctx: Context, q: str) -> str:
    """Search the web."""
    return f"found {q}"


native = Planner("Search.", takes=str, returns=str, tools=[search], name="native")


enveloped = Planner(
    "Search.", takes=str, returns=str, tools=[search], name="enveloped", calls="json"
)


@workflow
def in_tokens(q: Ref[str]) -> Ref[str]:
    return native(q)


@workflow
def in_text(q: Ref[str]) -> Ref[str]:
    return enveloped(q)


async def run(which: Any, model: Any) -> str:
    async with Engine(MemoryStore(), workflows=[which], model=model) as engine:
        answer: str = await engine.run(which, "hi")
        return answer


def told(request: ModelRequest) -> str:
    """What the request says since the model spoke last."""
    since: list[str] = []
    for message in reversed(request.messages):
        if message.role == "assistant":
            break
        since.insert(0, message.content or "")
    return "\n".join(since)


def leak(name: str, arguments: str) -> str:
    return (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0"
        f"<|tool_call_argument_begin|>{arguments}<|tool_call_end|><|tool_calls_section_end|>"
    )


@pytest.mark.parametrize(
    ("said", "result"),
    [
        (leak("search", '{"q": "x",}'), "found x"),
        (leak("serch", '{"q": "x"}'), "did you mean search?"),
        (leak("search", '{"query": "x"}') + leak("search", '{"q": "y"}'), "found y"),
    ],
    ids=["a comma too many", "an unknown name", "a bad one beside a good one"],
)
async def test_a_leaked_call_is_enforced_like_any(said: str, result: str) -> None:
    def script(request: ModelRequest, nth: int) -> str:
        if "syntax expert" in (request.messages[0].content or ""):  # the one correction
            return "{}"
        return "final" if request.messages[-1].role == "tool" else said

    with strict_server(script) as server:
        async with OpenAIModel(
            "kimi-k2-thinking", base_url=server.base_url, environ={}, profile="kimi-k2-thinking"
        ) as model:
            assert await run(in_tokens, model) == "final"
        assert result in told(server.requests[-1])
        assert not any(
            "<|tool" in (message.content or "")
            for request in server.requests
            for message in request.messages
        )
        assert server.violations == []


@pytest.mark.parametrize(
    ("said", "results"),
    [
        ('{"tool": "serch", "parameters": {"q": "x"}}', ["did you mean search?"]),
        (
            '{"tool": "search", "parameters": {"q": "x"}}\n{"tool": "search", "args": {"q": "y"}}',
            ["found x", "found y"],
        ),
        (
            'I look: {"tool": "search", "input": {"q": "x"}} and {"tool": "search", "input": {"q": "y"}}',
            ["found x", "found y"],
        ),
        ('{"tool": "search", "parameters": {"q": "x', ["cannot be read"]),
    ],
    ids=["an unknown name", "two lines", "in prose", "cut"],
)
async def test_a_call_in_text_is_no_answer(said: str, results: list[str]) -> None:
    model = ScriptedModel([said, "final"])
    assert await run(in_text, model) == "final"
    assert len(model.requests) == 2
    for result in results:
        assert result in told(model.requests[1])


async def test_an_answer_that_only_names_a_tool_is_an_answer() -> None:
    said = '{"tool": "hammer", "price": 3}'
    assert await run(in_text, ScriptedModel([said])) == said
