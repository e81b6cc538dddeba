"""Plans become steps: what is refused, in words for the planner, and what a model's JSON may say."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from flowkit import Context
from flowkit.errors import BadArguments, DeclarationError, PlanError, PlanTooLarge, UnknownTool
from flowkit.events import Error
from flowkit.graft import RepeatedPlan, graft
from flowkit.graph import Source, Step
from flowkit.nodes import CodePlanner, Findings, Plan, Planned, planner, tool
from flowkit.planning import STEP_REF, plan_from, plan_schema
from flowkit.slot import Planning, Slot, TurnState


class Topic(BaseModel):
    text: str


class Page(BaseModel):
    text: str
    below: list[Page] = []


class LongPage(Page):
    chapters: int = 1


class When(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    pair: tuple[int, str]


@tool
async def search(ctx: Context, topic: Topic) -> Page:
    """Find a page."""
    return Page(text=topic.text)


@tool
async def archive(ctx: Context, topic: Topic) -> Page:
    return Page(text=topic.text)


@tool
async def deep(ctx: Context, topic: Topic) -> LongPage:
    return LongPage(text=topic.text)


@tool
async def read(ctx: Context, page: Page, times: int) -> str:
    return page.text * times


@tool
async def maybe(ctx: Context, page: Page | None) -> str:
    return ""


@tool
async def at(ctx: Context, when: When, tags: set[str]) -> str:
    return ""


@tool
async def tell(ctx: Context, found: Findings) -> str:
    return ""


TOOLS = [search | archive, deep, read, maybe, at]


@planner(tools=TOOLS, steps_max=6)
async def plan(ctx: Context, topic: Topic) -> Plan:
    return Plan()


TOPIC = Topic(text="x")
TEXT = '{"text":"x"}'


def grafted(*steps: Any, slot: Slot | None = None, by: CodePlanner[Any, Any] = plan) -> Any:
    return graft(by, Plan(list(steps)), slot or Slot(Step("plan", ("plan",))))


def refused(error: type[PlanError], *steps: Any) -> str:
    with pytest.raises(PlanError) as caught:
        grafted(*steps)
    assert type(caught.value) is error
    return str(caught.value)


# ---- steps made by tools ----


def test_planned_steps_become_steps_with_their_alternatives() -> None:
    first = (search | archive).step(TOPIC, id="first")
    assert grafted(first, read.step(first, 3), maybe.step(None)) == (
        Step("first", ("search", "archive"), (Source(text=TEXT),)),
        Step("read", ("read",), (Source("first"), Source(text="3"))),
        Step("maybe", ("maybe",), (Source(text="null"),)),
    )


def test_a_fallback_is_known_by_its_first_tool_s_name() -> None:
    assert search.step(TOPIC) == (search | archive).step(TOPIC)
    assert grafted(search.step(TOPIC))[0].nodes == ("search", "archive")


def test_the_order_of_steps_is_free() -> None:
    later: Planned[Page] = Planned("b", "search", (Source(text=TEXT),))
    assert [step.key for step in grafted(read.step(later, 1, id="a"), later)] == ["a", "b"]


def test_an_empty_plan_is_a_plan() -> None:
    assert grafted() == ()


def test_a_step_of_a_narrower_type_fits() -> None:
    page = deep.step(TOPIC)
    assert len(grafted(page, maybe.step(page))) == 2


def test_what_a_tool_cannot_take_is_refused_as_the_step_is_made() -> None:
    any_search: Any = search
    with pytest.raises(ValueError, match="text"):
        any_search.step({"wrong": 1})
    with pytest.raises(DeclarationError, match="'search' takes 1 inputs, got 2"):
        any_search.step(TOPIC, TOPIC)
    with pytest.raises(DeclarationError, match="step id 'a b' is not a name"):
        search.step(TOPIC, id="a b")
    with pytest.raises(DeclarationError, match="'found' takes Findings, which no plan can give"):
        tell.step(Findings())


def test_too_many_steps_are_refused() -> None:
    steps = [search.step(TOPIC, id=f"s{n}") for n in range(7)]
    assert "7 steps; plan at most 6" in refused(PlanTooLarge, *steps)
    assert len(grafted(*steps[:6])) == 6


def test_ids_are_told_apart() -> None:
    same = search.step(TOPIC), search.step(TOPIC)
    assert "two steps have the id 'search'; give each" in refused(PlanError, *same)
    for name in ("", "a/b", "$input", "a b", "x" * 65):
        assert "is not a name" in refused(PlanError, Planned(name, "search", (Source(text=TEXT),)))


def test_unknown_tools_are_refused_with_those_that_are_near() -> None:
    message = refused(UnknownTool, Planned("a", "serch"))
    assert message == "there is no tool 'serch'; did you mean search?"
    message = refused(UnknownTool, Planned("a", "zzzzzz"))
    assert message == "there is no tool 'zzzzzz'; tools: search, deep, read, maybe, at."
    # The second alternative is no tool of its own.
    assert "no tool 'archive'" in refused(UnknownTool, archive.step(TOPIC))


def test_a_planner_without_tools_says_so() -> None:
    @planner
    async def bare(ctx: Context, topic: Topic) -> Plan:
        return Plan()

    with pytest.raises(UnknownTool, match="tools: none"):
        grafted(search.step(TOPIC), by=bare)


def test_wrong_arguments_are_refused() -> None:
    page = search.step(TOPIC, id="page")
    message = refused(BadArguments, Planned("a", "read", (Source("page"),)), page)
    assert message == "step 'a': read takes page, times, but was given 1 arguments."
    message = refused(BadArguments, Planned("a", "maybe", (Source("nowhere"),)), page)
    assert "'a': page refers to 'nowhere', which is no step of this plan. Steps: a, page" in message
    message = refused(BadArguments, Planned("a", "search", (Source("page"),)), page)
    assert message == "step 'a': topic takes Topic, but step 'page' gives Page."
    assert "'$input', which is no step" in refused(
        BadArguments, Planned("a", "search", (Source("$input"),))
    )


def test_what_is_no_step_is_refused() -> None:
    for wrong in (search, TOPIC, "search", None):
        assert "made by tool.step(...)" in refused(PlanError, wrong)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_steps_that_wait_for_each_other_are_refused(size: int) -> None:
    @tool
    async def same(ctx: Context, page: Page) -> Page:
        return page

    @planner(tools=[same])
    async def plans(ctx: Context, topic: Topic) -> Plan:
        return Plan()

    ring: list[Planned[Page]] = [
        Planned(f"r{n}", "same", (Source(f"r{(n + 1) % size}"),)) for n in range(size)
    ]
    with pytest.raises(PlanError, match=r"the steps .*r0.* wait for each other; break the cycle"):
        grafted(*ring, by=plans)


# ---- the same plan again ----


def after_failure(*steps: Step, failed: str) -> Slot:
    """A planner's slot whose first turn had these steps, one of which failed."""
    slot = Slot(Step("plan", ("plan",)))
    children: list[Slot] = []
    for step in steps:
        inputs = tuple(
            Source(f"plan/t1/{source.step}" if source.step else "", source.text)
            for source in step.inputs
        )
        child = Slot(Step(f"plan/t1/{step.key}", step.nodes, inputs), slot)
        child.status = "failed" if step.key == failed else "settled"
        child.error = Error("ValueError", "no such page") if step.key == failed else None
        children.append(child)
    turn = TurnState(1, children)
    slot.planning = Planning([turn], failed=[turn] if turn.failures() else [])
    return slot


def test_a_plan_that_failed_is_not_taken_again() -> None:
    page = search.step(TOPIC, id="page")
    steps = [page, read.step(page, 2)]
    slot = after_failure(*grafted(*steps), failed="page")
    for again in (steps, steps[::-1]):
        with pytest.raises(RepeatedPlan) as caught:
            grafted(*again, slot=slot)
        assert "has failed already in turn 1" in str(caught.value)
        assert "plan/t1/page: ValueError: no such page" in str(caught.value)


def test_another_plan_is_taken_after_a_failure() -> None:
    page = search.step(TOPIC, id="page")
    steps = [page, read.step(page, 2)]
    slot = after_failure(*grafted(*steps), failed="page")
    grafted(page, read.step(page, 3), slot=slot)
    grafted(page, slot=slot)
    grafted(search.step(Topic(text="y"), id="page"), read.step(page, 2), slot=slot)
    grafted(search.step(TOPIC, id="other"), slot=slot)
    grafted(slot=slot)
    whole = after_failure(*grafted(*steps), failed="none")
    grafted(*steps, slot=whole)


# ---- a model's JSON ----


def said(*steps: Any, **more: Any) -> Plan:
    return plan_from({"steps": list(steps), **more}, TOOLS)


def step(name: str, id: Any = None, **args: Any) -> dict[str, Any]:
    return {"id": id or name, "tool": name, "args": args}


GOOD: list[tuple[list[dict[str, Any]], tuple[Planned[Any], ...]]] = [
    ([], ()),
    ([step("search", topic={"text": "x"})], (search.step(TOPIC),)),
    (
        [step("deep", "d", topic={"text": "x"}), step("read", page={STEP_REF: "d"}, times=2)],
        (Planned("d", "deep", (Source(text=TEXT),)), Planned("read", "read", (Source("d"), Source(text="2")))),
    ),
    ([step("maybe", page=None)], (maybe.step(None),)),
    (
        [step("maybe", page={"text": "x", "below": [{"text": "y"}]})],
        (maybe.step(Page(text="x", below=[Page(text="y")])),),
    ),
    (
        [step("at", when={"day": "2020-01-02", "pair": [1, "a"]}, tags=["b", "a"])],
        (at.step(When(day=date(2020, 1, 2), pair=(1, "a")), {"a", "b"}),),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "planned"), GOOD, ids=str)
def test_json_says_the_same_as_steps_made_in_code(
    steps: list[dict[str, Any]], planned: tuple[Planned[Any], ...]
) -> None:
    assert said(*steps) == Plan(list(planned))
    graft(plan, said(*steps), Slot(Step("plan", ("plan",))))


def test_json_may_ask_to_be_asked_again() -> None:
    assert said(again=True).again
    assert not said(again=False).again
    assert not said(again="yes").again


def test_json_without_an_id_is_named_after_its_tool() -> None:
    bare = {"tool": "maybe", "args": {"page": None}}
    assert said(bare).steps[0].id == "maybe"


BAD: list[tuple[Any, type[PlanError], str]] = [
    (None, PlanError, "answer with a JSON object"),
    ([], PlanError, "answer with a JSON object"),
    ("steps", PlanError, "answer with a JSON object"),
    ({}, PlanError, '"steps" must be a list'),
    ({"steps": {}}, PlanError, '"steps" must be a list'),
    ({"steps": ["search"]}, PlanError, "a step is"),
    ({"steps": [{}]}, UnknownTool, "no tool 'None'"),
    ({"steps": [step("serch")]}, UnknownTool, "did you mean search?"),
    ({"steps": [step("search")]}, BadArguments, '"args" of search must have exactly: topic.'),
    ({"steps": [{"tool": "search"}]}, BadArguments, "must have exactly: topic"),
    ({"steps": [{"tool": "search", "args": ["x"]}]}, BadArguments, "must have exactly: topic"),
    (
        {"steps": [step("search", topic={"text": "x"}, depth=1)]},
        BadArguments,
        "must have exactly: topic",
    ),
    ({"steps": [step("search", "s1", topic={"text": 1})]}, BadArguments, "step 's1': topic of search"),
    ({"steps": [step("read", page={STEP_REF: "x"}, times="many")]}, BadArguments, "times of read"),
    (
        {"steps": [step("search", topic={STEP_REF: "x", "text": 1})]},
        BadArguments,
        "topic of search",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "error", "part"), BAD, ids=str)
def test_json_that_is_no_plan_is_refused_in_words(
    data: Any, error: type[PlanError], part: str
) -> None:
    with pytest.raises(PlanError) as caught:
        plan_from(data, TOOLS)
    assert type(caught.value) is error
    assert part in str(caught.value)


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda item: (
        st.lists(item, max_size=3)
        | st.dictionaries(
            st.sampled_from(["steps", "id", "tool", "args", "topic", "page", "text", STEP_REF]),
            item,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(json_data | st.fixed_dictionaries({"steps": st.lists(json_data, max_size=3)}))
def test_any_json_is_a_plan_or_a_plan_error(data: Any) -> None:
    try:
        made = plan_from(data, TOOLS)
        graft(plan, made, Slot(Step("plan", ("plan",))))
    except PlanError as error:
        assert str(error)  # noqa: PT017  (either is right)


# ---- the schema of plans ----


def fits_schema(data: Any, schema: Any, root: Any) -> bool:
    """JSON Schema, as far as plans of these tools need it."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return fits_schema(data, root["$defs"][name], root)
    if "anyOf" in schema:
        return any(fits_schema(data, each, root) for each in schema["anyOf"])
    if "const" in schema:
        return bool(data == schema["const"])
    match schema.get("type"):
        case "object":
            return isinstance(data, dict) and object_fits(
                cast("dict[str, Any]", data), schema, root
            )
        case "array":
            if not isinstance(data, list):
                return False
            heads: list[Any] = schema.get("prefixItems", [])
            return all(
                fits_schema(item, heads[n] if n < len(heads) else schema.get("items", {}), root)
                for n, item in enumerate(cast("list[Any]", data))
            )
        case "string":
            return isinstance(data, str)
        case "integer":
            return isinstance(data, int) and not isinstance(data, bool)
        case "boolean":
            return isinstance(data, bool)
        case "null":
            return data is None
        case None:
            return True
        case other:
            raise AssertionError(f"this test does not know {other!r}")


def object_fits(data: dict[str, Any], schema: Any, root: Any) -> bool:
    known: dict[str, Any] = schema.get("properties", {})
    if not set(schema.get("required", ())) <= set(data):
        return False
    if schema.get("additionalProperties") is False and not set(data) <= set(known):
        return False
    return all(fits_schema(data[name], hint, root) for name, hint in known.items() if name in data)


SCHEMA = plan_schema(TOOLS)


@pytest.mark.parametrize("steps", [each for each, _ in GOOD], ids=str)
def test_good_plans_fit_the_schema(steps: list[dict[str, Any]]) -> None:
    assert fits_schema({"steps": steps}, SCHEMA, SCHEMA)
    assert fits_schema({"steps": steps, "again": True}, SCHEMA, SCHEMA)


@pytest.mark.parametrize("data", [data for data, _, _ in BAD], ids=str)
def test_bad_plans_do_not_fit_the_schema(data: Any) -> None:
    assert not fits_schema(data, SCHEMA, SCHEMA)


def test_the_schema_tells_of_tools_arguments_and_references() -> None:
    variants = SCHEMA["properties"]["steps"]["items"]["anyOf"]
    names = [each["properties"]["tool"]["const"] for each in variants]
    assert names == ["search", "deep", "read", "maybe", "at"]
    assert variants[0]["properties"]["tool"]["description"] == "Find a page."
    assert list(variants[2]["properties"]["args"]["properties"]) == ["page", "times"]
    for each in variants:
        for argument in each["properties"]["args"]["properties"].values():
            assert argument["anyOf"][-1]["required"] == [STEP_REF]


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    names = set(re.findall(r"#/\$defs/(\w+)", str(SCHEMA)))
    assert names == {"Page"}
    assert names <= set(SCHEMA["$defs"])


def test_a_planner_without_tools_has_a_schema() -> None:
    bare = plan_schema([])
    assert "$defs" not in bare
    assert fits_schema({"steps": []}, bare, bare)
