"""A second judge: our client, and our strict server, against a mock server by other people.

`@copilotkit/aimock` comes from npm; `.ci/run` installs it. Tests use no network, so without it
these are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowkit.chat import ChatMessage, Delta, ModelRequest, Usage
from flowkit.errors import ModelError, ModelUnavailable, RateLimited
from flowkit.model import OpenAIModel
from flowkit.testing import ScriptedModel, by_turn, calls, says, strict_server

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
AIMOCK = CACHE / "flowkit-ci/aimock/node_modules/@copilotkit/aimock/dist/cli.js"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(NODE is None, reason="there is no node"),
    pytest.mark.skipif(not AIMOCK.is_file(), reason=f"no {AIMOCK}: .ci/run installs it, with npm"),
]

Json = dict[str, Any]

REPLIES = [
    calls(("search", {"q": 1}), ("search", {"q": 2}), text="I look", reasoning="look twice"),
    says("the report on cranes", reasoning="enough"),
]
TOOL: Json = {
    "name": "search",
    "description": "Searches.",
    "parameters": {"type": "object", "properties": {"q": {"type": "integer"}}},
}


def fixture(turn: int, message: ChatMessage) -> Json:
    """A reply of ours as aimock has it."""
    response: Json = {"content": message.content, "reasoning": message.reasoning}
    if message.tool_calls:
        response["toolCalls"] = [
            {"name": call.name, "arguments": json.loads(call.arguments), "id": f"call_{position}"}
            for position, call in enumerate(message.tool_calls)
        ]
    return {"match": {"userMessage": "cranes", "turnIndex": turn}, "response": response}


@contextmanager
def aimock(fixtures: Path, *options: str) -> Generator[str, None, None]:
    """A running aimock's base URL."""
    command = [NODE or "node", str(AIMOCK), "-p", "0", "-f", str(fixtures), *options]
    # A variable of the user's must not change what it does.
    environ = {"PATH": os.environ["PATH"]}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "listening on " in line:
                    yield f"{line.split('listening on ')[1].strip()}/v1"
                    return
            raise AssertionError("aimock did not start")
        finally:
            process.terminate()
            process.stdout.read()


def written(folder: Path, fixtures: Sequence[Json]) -> Path:
    file = folder / "fixtures.json"
    file.write_text(json.dumps({"fixtures": fixtures}))
    return file


def asking(*messages: ChatMessage) -> ModelRequest:
    return ModelRequest([ChatMessage("user", content="Research cranes."), *messages], tools=[TOOL])


async def converse(model: OpenAIModel | ScriptedModel) -> list[ChatMessage]:
    """Two turns: calls and their results, then a text. Without ids, which are the server's."""
    first = (await model.respond(asking())).message
    results = [
        ChatMessage("tool", content="a page", tool_call_id=call.id) for call in first.tool_calls
    ]
    last = (await model.respond(asking(first, *results))).message
    return [
        replace(m, extra={}, tool_calls=[replace(call, id="") for call in m.tool_calls])
        for m in (first, last)
    ]


async def test_our_client_understands_another_server(tmp_path: Path) -> None:
    fixtures = [fixture(turn, reply) for turn, reply in enumerate(REPLIES)]
    pieces: list[str] = []

    async def on_delta(piece: Delta) -> None:
        pieces.append(piece.text)

    with aimock(written(tmp_path, fixtures), "--strict", "-c", "5") as url:
        async with OpenAIModel("m", base_url=url, environ={}) as model:
            assert await converse(model) == await converse(ScriptedModel(by_turn(REPLIES)))
            answer = await model.respond(asking(), on_delta=on_delta)
            assert "".join(pieces) == "I look"
            assert len(pieces) > 1
            assert (answer.finish_reason, answer.model) == ("tool_calls", "m")
            assert answer.usage != Usage()
            with pytest.raises(ModelUnavailable, match="no_fixture_match"):
                await model.respond(ModelRequest([ChatMessage("user", content="storks")]))


async def test_our_client_understands_another_servers_errors(tmp_path: Path) -> None:
    said = {"message": "slow", "type": "rate_limit_reached_error"}
    limited = {"match": {"userMessage": "cranes"}, "response": {"error": said, "status": 429}}
    with aimock(written(tmp_path, [limited])) as url:
        async with OpenAIModel("m", base_url=url, environ={}) as model:
            with pytest.raises(RateLimited) as caught:
                await model.respond(asking())
    assert caught.value.retry_after_s == 1


@pytest.mark.parametrize(
    ("chaos", "kind"),
    [
        ("drop", ModelUnavailable),
        ("malformed", ModelUnavailable),
        ("disconnect", ModelUnavailable),
        ("ratelimit", RateLimited),
    ],
)
async def test_our_client_gets_over_another_servers_faults(
    tmp_path: Path, chaos: str, kind: type[ModelError]
) -> None:
    file = written(tmp_path, [fixture(0, REPLIES[0])])
    with aimock(file, f"--chaos-{chaos}", "1") as url:
        async with OpenAIModel("m", base_url=url, environ={}) as model:
            with pytest.raises(kind) as caught:
                await model.respond(asking())
    assert caught.value.retryable


async def test_another_reader_understands_our_server(tmp_path: Path) -> None:
    """aimock records what our server says through it, and says the same without it."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    with (
        strict_server(by_turn(REPLIES)) as server,
        aimock(
            recorded, "--record", "--provider-openai", server.base_url.removesuffix("/v1")
        ) as url,
    ):
        async with OpenAIModel("m", base_url=url, environ={}) as model:
            through = await converse(model)
    assert server.violations == []
    assert len(server.requests) == 2
    with aimock(recorded, "--strict") as url:
        async with OpenAIModel("m", base_url=url, environ={}) as model:
            replayed = await converse(model)
    assert through == replayed == await converse(ScriptedModel(by_turn(REPLIES)))
