"""The four kinds of node: planner, tool, verifier, and the fallback that `|` makes."""

from __future__ import annotations

from flowkit.node import AnyNode
from flowkit.nodes.node import Fallback, Node
from flowkit.nodes.planner import CodePlanner, planner
from flowkit.nodes.subflow import Subflow
from flowkit.nodes.tool import Tool, tool
from flowkit.nodes.verifier import Verifier, verifier
from flowkit.plan import Failure, Findings, Plan, Planned, Turn

__all__ = [
    "AnyNode",
    "CodePlanner",
    "Failure",
    "Fallback",
    "Findings",
    "Node",
    "Plan",
    "Planned",
    "Subflow",
    "Tool",
    "Turn",
    "Verifier",
    "planner",
    "tool",
    "verifier",
]
