"""`approval`: a step that asks a person about a value, and gives it on when the person agrees.

    publish(approval(Report, "May this be published?")(write(topic)))

Where the question is about an effect, `@tool(approve="always")` binds the answer to just that effect.
An approval that stands alone is a step like any other: a fork that begins after it shares its answer.
"""

from __future__ import annotations

from typing import TypeVar

from flowkit.graph import check_name
from flowkit.node import AnyNode, Context
from flowkit.nodes.node import Node
from flowkit.policy import Approve, Policy, Trust

A = TypeVar("A")


class Approval(Node[A, A]):
    """Gives on what it is given, once a person has agreed. Made by `approval`."""

    def __init__(self, takes: type[A], name: str, approve: Approve) -> None:
        policy = Policy(trust=Trust(approve=approve))
        AnyNode.__init__(self, check_name(name, "approval"), {"value": takes}, takes, policy)
        self.description = approve.question

    async def run(self, ctx: Context, value: A, /) -> A:
        return value


def approval(
    takes: type[A], question: str, *, name: str = "approval", timeout_s: float | None = None
) -> Approval[A]:
    """A step that asks a person about a value of this type; denied, it fails and its fallback is next.

    No answer within `timeout_s` is a no.
    """
    return Approval(takes, name, Approve("always", timeout_s, question=question))
