"""`flowkit mcp`: workflows as tools, driven by the SDK's client and by our own; and `pin`."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import BlobResourceContents, CallToolResult, TextContent, TextResourceContents

from flowkit import Engine
from flowkit.nodes.tools.mcp import McpConnections, McpServer, mcp_tools
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel, calls, says
from flowkit.testing.script import by_turn
from tests.scenario.cli_program import Cli, wait_until
from tests.scenario.mcp_program import SERVER, Task, flow

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

PINNED = f"""
import sys
from pathlib import Path
from pydantic import BaseModel
from flowkit import Context, Ref, workflow
from flowkit.nodes import tool
from flowkit.nodes.tools.mcp import McpConnections, McpResult, McpServer, mcp_tools

HERE = Path(__file__).parent
server = McpServer.stdio("t", sys.executable, {str(SERVER)!r}, str(HERE))
(echo,) = mcp_tools(server, HERE / "lock.json", only=["echo"])
RESOURCES = [McpConnections()]


class Line(BaseModel):
    text: str


@tool
async def arguments(ctx: Context, line: Line) -> dict[str, object]:
    return {{"text": line.text}}


@workflow
def saying(line: Ref[Line]) -> Ref[McpResult]:
    return echo(arguments(line))
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli.made(tmp_path)
    made.env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return made


def served(cli: Cli, *arguments: str) -> StdioServerParameters:
    """The program, through a shell that leaves its process id in a file."""
    words = ["-m", "flowkit", "mcp", "serve", *arguments]
    script = 'echo $$ > pid; exec "$0" "$@"'
    return StdioServerParameters(
        command="/bin/sh", args=["-c", script, sys.executable, *words], env=cli.env, cwd=cli.folder
    )


def text_of(result: CallToolResult) -> str:
    (said,) = result.content
    assert isinstance(said, TextContent)
    return said.text


async def read(client: Client, uri: str) -> dict[str, Any]:
    (found,) = (await client.read_resource(uri)).contents
    assert isinstance(found, TextResourceContents)
    return json.loads(found.text)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_workflow_is_a_tool_and_its_run_a_resource(cli: Cli, mode: str) -> None:
    printed = anyio.Event()

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        if "print_it done" in str(message):
            printed.set()

    parameters = served(
        cli,
        "flows.py:fine",
        "flows.py:asking",
        "flows.py:broken",
        "flows.py:texting",
        "flows.py:packing",
    )
    async with Client(parameters, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["fine", "asking", "broken", "texting", "packing", "run_status"]
        assert tools["fine"].input_schema["required"] == ["text"]
        assert tools["texting"].input_schema["required"] == ["input"]

        done = await client.call_tool("fine", {"text": "a", "times": 2}, progress_callback=tell)
        assert json.loads(text_of(done)) == {"text": "aa!"}
        assert done.structured_content
        assert done.structured_content["result"] == {"text": "aa!"}
        with anyio.fail_after(10):
            await printed.wait()
        run = await read(client, done.structured_content["resource"])
        assert (run["status"], [step["step"] for step in run["steps"]]) == (
            "succeeded",
            ["write", "is_short", "print_it"],
        )
        assert text_of(await client.call_tool("texting", {"input": "b"})) == "bb"

        packed = await client.call_tool("packing", {"text": "a", "tags": ["a.txt"]})
        file = json.loads(text_of(packed))["files"][0]
        assert packed.structured_content
        uri = f"{packed.structured_content['resource']}/artifacts/{file['sha256']}"
        (blob,) = (await client.read_resource(uri)).contents
        assert isinstance(blob, BlobResourceContents)
        assert (blob.mime_type, base64.b64decode(blob.blob)) == ("text/plain", b"0 a.txt")
        with pytest.raises(MCPError, match="has no artifact"):
            await client.read_resource(uri[:-1])

        wrong = await client.call_tool("fine", {"times": 0})
        assert wrong.is_error
        assert "text\n  Field required" in text_of(wrong)
        failed = await client.call_tool("broken", {"text": "a"})
        assert failed.is_error
        assert "not mended" in text_of(failed)

        named: Any = {"flowkit/runId": "q"}
        waiting = await client.call_tool("asking", {"text": "a"}, meta=named)
        assert "run q waits for signal 'approve'" in text_of(waiting)
        assert cli("signal", "q", "approve", '"yes"').code == 0
        ended = waiting
        while text_of(ended).startswith("run q "):  # until the server has looked
            ended = await client.call_tool("run_status", {"run_id": "q"})
        assert json.loads(text_of(ended)) == {"text": "a yes"}
        uris = [each.uri for each in (await client.list_resources()).resources]
        assert "flowkit://runs/q" in uris
        with pytest.raises(MCPError, match="no run 'other'"):
            await client.read_resource("flowkit://runs/other")
        assert (await client.call_tool("run_status", {"run_id": "other"})).is_error


@pytest.mark.long
async def test_a_killed_server_goes_on_with_its_runs_and_a_cancelled_call_cancels_its_own(
    cli: Cli,
) -> None:
    parameters = served(cli, "flows.py:holding")
    named: Any = {"flowkit/runId": "h"}
    async with Client(parameters) as client:

        async def killed() -> None:
            with pytest.raises(MCPError, match="closed"):
                await client.call_tool("holding", {"text": "x"}, meta=named)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(killed)
            await anyio.to_thread.run_sync(wait_until, (cli.folder / "holding").exists)
            os.kill(int((cli.folder / "pid").read_text()), signal.SIGKILL)
    (cli.folder / "holding").unlink()
    async with Client(parameters) as client:
        # Nobody asks for it: the run is taken up all the same.
        await anyio.to_thread.run_sync(wait_until, (cli.folder / "holding").exists)
        (cli.folder / "go").touch()
        done = await client.call_tool("holding", {"text": "x"}, meta=named)
        assert json.loads(text_of(done)) == {"text": "held x!"}
        assert cli.effects("h") == ["write", "hold", "hold", "print_it"]
        other = await client.call_tool("holding", {"text": "y"}, meta=named)
        assert other.is_error, "a run's id with another input"

        (cli.folder / "go").unlink()
        (cli.folder / "holding").unlink()
        async with anyio.create_task_group() as tasks:
            call = {"text": "z"}, None, None
            tasks.start_soon(
                lambda: client.call_tool("holding", *call, meta={"flowkit/runId": "z"})
            )
            await anyio.to_thread.run_sync(wait_until, (cli.folder / "holding").exists)
            tasks.cancel_scope.cancel()
        ended = await client.call_tool("run_status", {"run_id": "z"})
        assert ended.structured_content
        assert ended.structured_content["status"] == "cancelled"


@contextmanager
def over_http(cli: Cli, *targets: str) -> Generator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "flowkit", "mcp", "serve", *targets, "--http", "0"]
    process = subprocess.Popen(
        command,
        cwd=cli.folder,
        env=cli.env,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found
        yield found[0], process
    finally:
        process.kill()
        process.communicate()


# Under trio the SDK leaves generators of a stream that it has read to its end to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.long
async def test_over_http_a_workflow_is_the_tool_of_another_and_strangers_are_refused(
    cli: Cli,
) -> None:
    with over_http(cli, "flows.py:fine") as (url, process):
        server = McpServer.http("far", url)
        async with McpConnections() as mcp:
            tools = mcp_tools(server, await mcp.offers(server), only=["fine"])
            model = ScriptedModel(by_turn([calls(("far_fine", {"text": "a"})), says("done")]))
            async with Engine(MemoryStore(), model=model, resources=[mcp]) as engine:
                assert await engine.run(flow(tools), Task(text="x")) == "done"
            assert '"result":{"text":"a!"}' in str(model.requests[-1].messages[-1].content)
        (run,) = [json.loads(line) for line in cli("ls", "--json").out.splitlines()]
        assert run["run_id"].startswith("mcp-"), "named by the idempotency key of the step"
        body: dict[str, Any] = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "server/discover",
            "params": {},
        }
        async with httpx2.AsyncClient() as client:
            for name, value in (("host", "evil.example"), ("origin", "http://evil.example")):
                answer = await client.post(url, json=body, headers={name: value})
                assert answer.status_code in (403, 421), name
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


@pytest.mark.long
def test_pinned_tools_run_from_the_command_line_and_a_change_waits_for_a_person(cli: Cli) -> None:
    (cli.folder / "pinned.py").write_text(PINNED)
    assert "`flowkit mcp pin TARGET`" in cli("run", "pinned.py", "-i", "text=x").err
    first = cli("mcp", "pin", "pinned.py")
    assert (first.code, first.out.splitlines()[0].split(",")[0]) == (0, "t: 5 tools")
    assert cli("run", "pinned.py", "-i", "text=x").json["text"] == "echo: x"

    change = {"changes": {"echo": {"description": "Other."}}, "gone": ["put"]}
    (cli.folder / "how.json").write_text(json.dumps(change))
    checked = cli("mcp", "pin", "pinned.py", "--check", "--json")
    assert (checked.code, checked.json["changes"]) == (1, ["~ echo (description)", "- put"])
    stopped = cli("run", "pinned.py", "-i", "text=y", "--run-id", "y")
    assert stopped.code == 1
    assert "has changed (description) since it was pinned, and was not called" in stopped.err
    assert cli("retry", "y", "pinned.py").code == 1, "nobody has accepted it yet"
    assert cli("mcp", "pin", "pinned.py").code == 0
    assert cli("retry", "y", "pinned.py").json["text"] == "echo: y"


def test_what_cannot_be_served_is_said_in_a_line(cli: Cli) -> None:
    assert (
        "two tools would be named 'fine'"
        in cli("mcp", "serve", "flows.py:fine", "flows.py:fine").err
    )
    assert cli("mcp", "pin", "flows.py:fine").err == (
        "flowkit: flows.py:fine has no tools of MCP servers that were made with a lock file.\n"
    )
