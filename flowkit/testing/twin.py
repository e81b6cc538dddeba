"""The same workflow, every attempt of which is told first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from flowkit.dsl import Workflow
from flowkit.node import AnyNode, Context

Attempt = tuple[str, int, int]
"""A step's key with its round or turn, its alternative, and the number of the attempt."""


def place(ctx: Context) -> Attempt:
    """Where an attempt belongs."""
    return ctx.step, ctx.alternative, ctx.attempt


def twin_of(workflow: Workflow[Any, Any], tell: Callable[[Context], None]) -> Workflow[Any, Any]:
    """A workflow whose nodes call `tell` before they begin; it may raise.

    Types, graph and fingerprints stay, so that a run of the one can be resumed with the other.
    """
    twin = copy.copy(workflow)
    twin.nodes = {name: _twin(node, tell) for name, node in workflow.nodes.items()}
    return twin


def _twin(node: AnyNode, tell: Callable[[Context], None]) -> AnyNode:
    twin = copy.copy(node)
    function = node.threaded

    async def run(ctx: Context, *args: Any) -> Any:
        tell(ctx)
        return await node.run(ctx, *args)

    def threaded(ctx: Context, *args: Any) -> Any:
        assert function is not None
        tell(ctx)
        return function(ctx, *args)

    if function is None:
        setattr(twin, "run", run)  # noqa: B010  (an instance's own run, in place of its class's)
    else:
        setattr(twin, "_threaded", threaded)  # noqa: B010
    return twin
