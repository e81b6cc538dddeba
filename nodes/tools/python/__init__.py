"""Python that a model wrote, run in a sandbox or not at all.

    Planner(..., tools=[python_tool(limits=Limits(time_s=20))])

`docs/sandbox.md` says what is guaranteed, how, and what is not.
"""

from __future__ import annotations

from flowkit.nodes.tools.python.bubblewrap import Bubblewrap
from flowkit.nodes.tools.python.launcher import Launcher
from flowkit.nodes.tools.python.sandbox import (
    Failure,
    Job,
    Limits,
    Outcome,
    Sandbox,
    SandboxUnavailable,
    Stop,
)
from flowkit.nodes.tools.python.tool import Code, PythonResult, python_tool
from flowkit.nodes.tools.python.wasm import Wasm

__all__ = [
    "Bubblewrap",
    "Code",
    "Failure",
    "Job",
    "Launcher",
    "Limits",
    "Outcome",
    "PythonResult",
    "Sandbox",
    "SandboxUnavailable",
    "Stop",
    "Wasm",
    "python_tool",
]
