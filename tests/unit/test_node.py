"""What a node is: types read from its signature, what is kept of it, and what it may be."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from pydantic import BaseModel

from flowkit import Context, DeclarationError, Fatal, Reject, Replan, Retry
from flowkit.node import AnyNode, signature
from flowkit.nodes import Fallback, Findings, Node, Plan, planner, tool, verifier
from flowkit.policy import Limits, Policy

if typing.TYPE_CHECKING:
    from flowkit.nodes import Tool


class Page(BaseModel):
    text: str


@tool
async def work(ctx: Context, page: Page, n: int) -> list[Page]:
    """Do the work."""
    return [page] * n


@tool
def block(ctx: Context, page: Page) -> Page:
    return page


@verifier
async def good(ctx: Context, page: Page) -> None:
    """Judge."""


@verifier
def plainly(ctx: Context, page: Page, n: int) -> None: ...


@planner(tools=[work, block], steps_max=3, turns_max=4, replans_max=5, repairs_max=6)
async def plan(ctx: Context, page: Page) -> Plan:
    """Plan."""
    return Plan()


@planner
async def answers(ctx: Context, page: Page) -> Plan | Page | None:
    return None


class Translate(Node[Page, Page]):
    """Translate."""

    async def run(self, ctx: Context, page: Page, /) -> Page:
        return page


def test_a_tool_is_what_its_signature_says() -> None:
    assert (work.name, work.kind, work.description) == ("work", "tool", "Do the work.")
    assert work.takes == {"page": Page, "n": int}
    assert list(work.takes) == ["page", "n"]
    assert work.gives == list[Page]
    assert work.policy == Policy()
    assert list(work.codecs()) == ["page", "n"]


def test_plain_functions_run_in_threads() -> None:
    for node in (work, good, plan, Translate()):
        assert node.threaded is None
    assert block.threaded is block.function
    assert plainly.threaded is plainly.function


def test_a_verifier_gives_what_it_checks() -> None:
    assert (good.kind, good.gives, good.takes) == ("verifier", Page, {"page": Page})
    assert (plainly.gives, list(plainly.takes)) == (Page, ["page", "n"])


def test_a_planner_that_only_plans_gives_findings() -> None:
    assert (plan.kind, plan.gives, plan.answers) == ("planner", Findings, False)
    assert plan.codec() is None
    assert plan.limits == Limits(3, 4, 5, 6)
    assert list(plan.tools) == [work, block]


def test_a_planner_that_answers_gives_its_answer() -> None:
    assert (answers.gives, answers.answers) == (Page | None, True)
    codec = answers.codec()
    assert codec is not None
    assert codec.check({"text": "x"}) == Page(text="x")


def test_a_class_is_a_node() -> None:
    node = Translate()
    assert (node.name, node.kind, node.description) == ("Translate", "tool", "Translate.")
    assert (node.takes, node.gives) == ({"page": Page}, Page)
    assert Translate(name="other").name == "other"


def test_a_node_stands_for_itself() -> None:
    assert list(work.alternatives) == [work]
    assert list(work.tools) == []
    assert work.moves_on == (Exception,)


def test_a_fallback_looks_like_its_first() -> None:
    either = block | Translate()
    assert isinstance(either, Fallback)
    assert (either.name, either.takes, either.gives) == ("block", {"page": Page}, Page)
    assert [each.name for each in either.alternatives] == ["block", "Translate"]
    strict = Fallback(block, Translate(), on=(ValueError, Reject))
    assert strict.moves_on == (ValueError, Reject)


def test_parameters_are_compared_by_type_not_by_name() -> None:
    @tool
    async def other(ctx: Context, same: Page) -> Page:
        return same

    assert [each.name for each in (block | other).alternatives] == ["block", "other"]


def test_what_the_journal_keeps_of_a_node() -> None:
    spec = plan.spec()
    assert (spec.name, spec.kind, spec.answers, spec.once) == ("plan", "planner", False, False)
    assert (spec.turns_max, spec.replans_max) == (4, 5)
    assert plan.spec() is spec
    assert len(spec.fingerprint) == 32
    assert answers.spec().answers
    assert (work.spec().turns_max, work.spec().replans_max) == (0, 0)
    once: Any = tool(effect="once")
    assert once(block.function).spec().once


def test_every_kind_has_its_own_fingerprint() -> None:
    nodes: list[AnyNode] = [work, block, good, plainly, plan, answers]
    assert len({node.spec().fingerprint for node in nodes}) == len(nodes)
    # A class and a function of the same types mean the same to a journal.
    assert block.spec().fingerprint == Translate().spec().fingerprint


def test_a_node_without_run_says_so() -> None:
    with pytest.raises(DeclarationError, match=r"Node has no run\(\)"):
        Node[Page, Page]()


@pytest.mark.parametrize("first", ["ctx", "_ctx", "_"])
def test_the_context_comes_first(first: str) -> None:
    names: dict[str, Any] = {"Context": Context, "Page": Page}
    exec(f"def made({first}: Context, page: Page) -> Page: ...", names)  # noqa: S102
    assert signature(names["made"], 1, "tool 'made'") == ({"page": Page}, Page)


def test_strings_are_resolved_where_the_function_stands() -> None:
    def make() -> Tool[Any, Any]:
        class Inner(BaseModel):
            n: int

        @tool
        async def inner(ctx: Context, given: "Inner") -> "list[Inner]":  # noqa: UP037
            return [given]

        assert inner.takes == {"given": Inner}
        return inner

    assert make().name == "inner"


def test_a_name_that_only_type_checkers_see_is_refused() -> None:
    with pytest.raises(
        DeclarationError, match=r"'Tool' is not defined.*exist where it is declared"
    ):

        @tool
        async def hidden(ctx: Context, given: Tool[Page, Page]) -> Page: ...


def test_words_of_a_node_carry_what_they_say() -> None:
    assert Retry().after_s is None
    assert (Retry(3.5).after_s, str(Retry(1, "later"))) == (3.5, "later")
    assert (Reject("cite").feedback, str(Reject("cite"))) == ("cite", "cite")
    assert Replan("no page").reason == Fatal("no page").reason == "no page"


async def test_a_node_is_called_with_its_context() -> None:
    ctx: Any = object()
    assert await work.run(ctx, Page(text="x"), 2) == [Page(text="x")] * 2
    assert await good.run(ctx, Page(text="x")) is None
    assert await answers.run(ctx, Page(text="x")) is None
    assert await Translate().run(ctx, Page(text="x")) == Page(text="x")
