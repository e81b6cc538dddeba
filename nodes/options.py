"""The options of a node's declaration that say how it is tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypedDict, cast

from flowkit.errors import DeclarationError
from flowkit.node import AnyNode
from flowkit.policy import Approve, Policy, Trust, When

_TOOLS_OWN = ("effect", "trust")


class Options(TypedDict, total=False):
    """How a node that asks a model is tried, as `Policy` has it; a misspelt one is seen by a checker."""

    retries: int
    timeout_s: float | None
    backoff_s: float
    backoff_max_s: float
    concurrency: int | None


class TrustOptions(TypedDict, total=False):
    """What may be said of a tool's `Trust`."""

    reads_private: bool
    untrusted_output: bool
    external_effect: bool
    approve: Approve | When


def tool_policy(options: Mapping[str, Any]) -> Policy:
    """The policy of a tool's declaration, its `Trust` among it; `DeclarationError` as `policy_of`."""
    own = [each.name for each in fields(Trust)]
    rest = {name: value for name, value in options.items() if name not in own}
    policy = policy_of(rest, "effect", *own)
    return replace(
        policy, trust=trust_of(Trust(), {name: options[name] for name in own if name in options})
    )


def trust_of(before: Trust, options: Mapping[str, Any]) -> Trust:
    """A trust with some of it said anew."""
    asks = options.get("approve", before.approve)
    return replace(
        before, **{**options, "approve": asks if isinstance(asks, Approve) else Approve(asks)}
    )


def policy_of(options: Mapping[str, Any], *others: str) -> Policy:
    """The policy of a declaration's options; `DeclarationError` for one that does not exist.

    `others`: names that the declaration takes beside them, for the hint. `effect` is a tool's alone.
    """
    from difflib import get_close_matches

    known = [*others, *(each.name for each in fields(Policy) if each.name not in _TOOLS_OWN)]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"options: {', '.join(known)}."
            raise DeclarationError(f"there is no option {name!r}; {hint}")
    return Policy(**options)


def check_tools(planner: str, tools: Sequence[AnyNode], *own: str) -> None:
    """Refuse what cannot be a planner's tool, and names that are taken."""
    names: list[str] = list(own)
    for tool in tools:
        if not isinstance(cast(object, tool), AnyNode):
            raise DeclarationError(
                f"planner {planner!r}: tools= takes nodes, not {tool!r}. Decorate a function with @tool."
            )
        if tool.kind == "verifier":
            raise DeclarationError(f"planner {planner!r}: {tool.name!r} is a verifier, not a tool.")
        if tool.name in own:
            raise DeclarationError(
                f"planner {planner!r}: a tool is named {tool.name!r}, which the planner has itself. "
                f"Rename it."
            )
        if tool.name in names:
            raise DeclarationError(
                f"planner {planner!r} has two tools of one name: {tool.name!r}. Rename one."
            )
        names.append(tool.name)
