"""A program that a test kills: a planner whose tools are an MCP server's, in a durable run.

`python mcp_program.py DATABASE FOLDER` starts the run, or goes on with it, and prints its result.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from pydantic import BaseModel

from flowkit import Engine, Ref, Workflow, workflow
from flowkit.nodes import Planner
from flowkit.nodes.tools.mcp import McpConnections, McpServer, McpTool, mcp_tools
from flowkit.store import SqlStore
from flowkit.testing import ScriptedModel, calls, says
from flowkit.testing.script import by_turn

SERVER = Path(__file__).with_name("mcp_server.py")


class Task(BaseModel):
    text: str


def server_in(folder: Path) -> McpServer:
    """The server of the tests, which lives in a folder."""
    env = {"TOKEN": "env:CANARY_TOKEN"}
    return McpServer.stdio("t", sys.executable, str(SERVER), str(folder), env=env)


def flow(tools: list[McpTool]) -> Workflow[Task, str]:
    agent = Planner("Do it.", name="agent", takes=Task, returns=str, tools=tools)

    @workflow
    def work(task: Ref[Task]) -> Ref[str]:
        return agent(task)

    return work


async def main(database: str, folder: Path) -> None:
    model = ScriptedModel(
        by_turn(
            [
                calls(("t_echo", {"text": "one"}), ("t_put", {"text": "two"})),
                calls(("t_slow", {})),
                calls(("t_pay", {"text": "three"})),
                says("done"),
            ]
        )
    )
    work = flow(mcp_tools(server_in(folder), folder / "lock.json", trust={"reads_private": False}))
    async with (
        McpConnections() as mcp,
        Engine(SqlStore(database), workflows=[work], model=model, resources=[mcp]) as engine,
    ):
        print(await engine.run(work, Task(text="x"), run_id="r"))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], Path(sys.argv[2]))
