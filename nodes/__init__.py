"""The four kinds of node: planner, tool, verifier, and the fallback that `|` makes.

`Planner`, `Judge` and `best_of` ask a model; `@planner`, `@tool` and `@verifier` are code.
"""

from __future__ import annotations

from flowkit.node import AnyNode
from flowkit.nodes.agent import Planner
from flowkit.nodes.approval import approval
from flowkit.nodes.checks import FitsSchema, PythonParses
from flowkit.nodes.code_planner import CodePlanner, planner
from flowkit.nodes.gating import Chosen, ToolChoice
from flowkit.nodes.judge import Judge, Verdict
from flowkit.nodes.node import Fallback, Node
from flowkit.nodes.records import ToolRecords
from flowkit.nodes.router import Router
from flowkit.nodes.sampling import Sampled, best_of, vote
from flowkit.nodes.subflow import Subflow
from flowkit.nodes.tool import Tool, tool
from flowkit.nodes.verifier import Verifier, verifier
from flowkit.plan import Failure, Findings, Plan, Planned, Turn

__all__ = [
    "AnyNode",
    "Chosen",
    "CodePlanner",
    "Failure",
    "Fallback",
    "Findings",
    "FitsSchema",
    "Judge",
    "Node",
    "Plan",
    "Planned",
    "Planner",
    "PythonParses",
    "Router",
    "Sampled",
    "Subflow",
    "Tool",
    "ToolChoice",
    "ToolRecords",
    "Turn",
    "Verdict",
    "Verifier",
    "approval",
    "best_of",
    "planner",
    "tool",
    "verifier",
    "vote",
]
