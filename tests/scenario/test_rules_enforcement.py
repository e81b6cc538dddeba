"""What a model writes as a call is one: run, or refused with a word; never the answer of the run."""

from __future__ import annotations

from typing import Any

import pytest

from flowkit import Context, Engine, Ref, workflow
from flowkit.chat import ModelRequest
from flowkit.model import OpenAIModel
from flowkit.nodes import Planner, tool
from flowkit.store import MemoryStore
from flowkit.testing import strict_server


@tool
async def search(ctx: Context, q: str) -> str:
    """Search the web."""
    return f"found {q}"


native = Planner("Search.", takes=str, returns=str, tools=[search], name="native")


@workflow
def in_tokens(q: Ref[str]) -> Ref[str]:
    return native(q)


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
