"""Declaring workflows: what is refused, in words that name the step and say what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from flowkit import Context, DeclarationError, Fatal, Ref, Reject, Workflow, workflow
from flowkit.changes import describe_change
from flowkit.errors import CycleFound, DuplicateStep, TypeMismatch, UnknownInput, UnusedStep
from flowkit.graph import INPUT, Graph, Source, Step
from flowkit.nodes import Fallback, Findings, Node, Plan, planner, tool, verifier

T = TypeVar("T")
Build = Callable[[Any], Any]


class Topic(BaseModel):
    text: str


class Page(BaseModel):
    text: str


class LongPage(Page):
    chapters: int = 1


class Unlike(BaseModel):
    n: int


@tool
async def search(ctx: Context, topic: Topic) -> Page:
    return Page(text=topic.text)


@tool
async def archive(ctx: Context, topic: Topic) -> Page:
    return Page(text=topic.text)


@tool
async def cache(ctx: Context, topic: Topic) -> Page:
    return Page(text=topic.text)


@tool
async def read(ctx: Context, page: Page) -> Page:
    return page


@tool
async def split(ctx: Context, page: Page) -> list[Topic]:
    return [Topic(text=page.text)]


@tool
async def merge(ctx: Context, pages: Sequence[Page], page: Page) -> Page:
    return page


@tool(effect="once")
async def publish(ctx: Context, page: Page) -> Page:
    return page


@planner(tools=[search])
async def plan(ctx: Context, topic: Topic) -> Plan:
    return Plan()


@tool
async def tell(ctx: Context, found: Findings) -> Page:
    return Page(text=str(len(found)))


@verifier
async def good(ctx: Context, page: Page) -> None:
    """Accept everything."""


@verifier
async def agrees(ctx: Context, page: Page, other: Page) -> None:
    """The second page is evidence."""


def flow(build: Build, takes: Any = Topic, gives: Any = Page) -> Workflow[Any, Any]:
    """Declare a workflow whose types no type checker looks at."""

    def made(topic: Any) -> Any:
        return build(topic)

    made.__annotations__ = {"topic": Ref[takes], "return": Ref[gives]}
    return workflow(made)


def refused(
    build: Build,
    error: type[DeclarationError],
    *parts: str,
    takes: Any = Topic,
    gives: Any = Page,
) -> str:
    """The message with which a workflow is refused; all parts are in it."""
    with pytest.raises(error) as caught:
        flow(build, takes, gives)
    assert type(caught.value) is error
    message = str(caught.value)
    for part in parts:
        assert part in message
    return message


def loose(function: Any) -> Any:
    """A decorator, or a node, that takes what a type checker would refuse."""
    return function


inner = flow(lambda t: good(read(search(t))))


def of_page(build: Build) -> Build:
    """A workflow that is made of one page, which is used more than once."""
    return lambda topic: build(search(topic))


def again(decorator: Any, node: Any) -> Any:
    """The function of a node under another decorator."""
    return decorator(node.function)


any_search, any_merge, any_split = loose(search), loose(merge), loose(split)


# ---- what a workflow is made of ----


def test_a_workflow_is_a_checked_graph_in_the_order_of_its_declaration() -> None:
    @workflow
    def two(topic: Ref[Topic]) -> Ref[Page]:
        """Two steps."""
        return read(search(topic))

    assert (two.name, two.description) == ("two", "Two steps.")
    assert (two.takes, two.gives) == (Topic, Page)
    assert two.graph.steps == (
        Step("search", ("search",), (Source(INPUT),)),
        Step("read", ("read",), (Source("search"),)),
    )
    assert two.graph.output == "read"
    assert set(two.nodes) == {"search", "read"}


def test_literals_stand_in_the_graph_as_json() -> None:
    made = flow(lambda t: any_merge([Page(text="a")], search(t)))
    assert made.graph.steps[1].inputs == (Source(text='[{"text":"a"}]'), Source("search"))


def test_after_orders_without_data() -> None:
    def build(t: Any) -> Any:
        first = search(t)
        second = search(t, id="second", after=first)
        return read(second, after=[first, t])

    made = flow(build)
    assert made.graph.steps[1].after == ("search",)
    assert made.graph.steps[2].after == ("search", INPUT)


def test_after_makes_literals_possible_and_keeps_a_step_used() -> None:
    made = flow(lambda t: read(Page(text="fixed"), after=search(t)))
    assert [step.key for step in made.graph.steps] == ["search", "read"]


def test_ids_name_steps() -> None:
    made = flow(lambda t: read(search(t, id="a-1"), id="B_2"))
    assert [step.key for step in made.graph.steps] == ["a-1", "B_2"]


def test_map_is_one_step_for_each_item() -> None:
    made = flow(lambda t: search.map(split(search(t)), id="each"), gives=list[Page])
    step = made.graph.steps[2]
    assert (step.key, step.each, step.inputs) == ("each", True, (Source("split"),))


def test_a_fallback_is_one_step_with_its_alternatives_in_order() -> None:
    made = flow(lambda t: (search | archive | cache)(t))
    assert made.graph.steps == (Step("search", ("search", "archive", "cache"), (Source(INPUT),)),)
    assert made.fallbacks == {("search", "archive", "cache"): (Exception,)}


def test_fallbacks_are_flattened() -> None:
    names = ["search", "archive", "cache"]
    for node in (
        (search | archive) | cache,
        search | (archive | cache),
        Fallback(search, archive, cache),
        Fallback(search, Fallback(archive, cache)),
    ):
        assert [each.name for each in node.alternatives] == names


def test_on_limits_what_moves_on_and_reject_moves_a_round() -> None:
    made = flow(lambda t: good(Fallback(search, archive, on=(ValueError, Reject))(t)))
    assert made.fallbacks == {("search", "archive"): (ValueError, Reject)}
    assert made.graph.steps[0].reject_moves
    assert not flow(lambda t: good((search | archive)(t))).graph.steps[0].reject_moves


def test_a_verifier_passes_on_the_value_that_it_checks() -> None:
    made = flow(lambda t: read(agrees(good(search(t)), archive(t), attempts=3)))
    steps = {step.key: step for step in made.graph.steps}
    assert steps["good"].checks == steps["agrees"].checks == "search"
    assert (steps["good"].attempts, steps["agrees"].attempts) == (2, 3)
    assert steps["agrees"].after == ("good",), "one verifier after the other"
    assert steps["read"].inputs == (Source("search"),)
    assert flow(lambda t: good(search(t))).graph.output == "search"


def test_names_of_the_decorators_stand_in_the_graph() -> None:
    @tool(name="search-2")
    async def other(ctx: Context, topic: Topic) -> Page:
        return Page(text="")

    assert flow(other).graph.steps[0].key == "search-2"


# ---- sub-workflows ----


def test_a_sub_workflow_is_inlined_under_its_prefix() -> None:
    made = flow(lambda t: read(inner(t, id="first"), after=t))
    assert made.graph.steps == (
        Step("first/search", ("search",), (Source(INPUT),)),
        Step("first/read", ("read",), (Source("first/search"),)),
        Step("first/good", ("good",), (Source("first/read"),), checks="first/read"),
        Step("read", ("read",), (Source("first/read"),), (INPUT,)),
    )


def test_a_sub_workflow_is_placed_twice_and_deep() -> None:
    middle = flow(lambda t: any_merge([Page(text="")], inner(t, id="again"), after=inner(t)))
    made = flow(lambda t: good(middle(t, id="m")))
    assert [step.key for step in made.graph.steps] == [
        *("m/again/search", "m/again/read", "m/again/good"),
        *("m/made/search", "m/made/read", "m/made/good"),
        "m/merge",
        "good",
    ]
    assert made.graph.steps[-1].checks == "m/merge"


def test_a_verifier_of_a_sub_workflow_checks_the_step_that_made_its_output() -> None:
    made = flow(lambda t: agrees(inner(t, id="in"), archive(t)))
    last = made.graph.steps[-1]
    assert (last.checks, last.after) == ("in/read", ("in/good",))


def test_a_sub_workflow_takes_a_literal_and_waits_with_after() -> None:
    made = flow(lambda t: inner(Topic(text="x"), id="in", after=search(t)))
    steps = {step.key: step for step in made.graph.steps}
    assert steps["in/search"].inputs == (Source(text='{"text":"x"}'),)
    assert steps["in/search"].after == ("search",)


def test_after_the_input_of_a_sub_workflow_is_after_what_it_is_given() -> None:
    ordered = flow(lambda t: read(Page(text=""), after=t))
    made = flow(lambda p: ordered(split_first(p), id="in"))
    steps = {step.key: step for step in made.graph.steps}
    assert steps["in/read"].after == ("split_first",)
    fixed = flow(lambda t: ordered(Topic(text=""), id="in", after=t))
    assert fixed.graph.steps[0].after == (INPUT,)


@tool
async def split_first(ctx: Context, topic: Topic) -> Topic:
    return topic


SUB_REFUSED: list[tuple[Build, type[DeclarationError], tuple[str, ...]]] = [
    (lambda t: inner(search(t)), TypeMismatch, ("workflow 'made': its input", "Topic", "Page")),
    (
        lambda t: inner(loose(7), after=t),
        TypeMismatch,
        ("workflow 'made': its input", "Topic", "int"),
    ),
    (lambda t: inner(Topic(text="")), DeclarationError, ("'made'", "engine.run(made, value)")),
    (
        lambda t: agrees(inner(t), inner(t)),
        DuplicateStep,
        ("'made'", "id="),
    ),
    (lambda t: inner(t, id="a/b"), DeclarationError, ("step id 'a/b'",)),
    (lambda t: inner(t, after=loose("search")), DeclarationError, ("'made'", "after=", "Ref")),
]


@pytest.mark.parametrize(
    ("build", "error", "parts"),
    SUB_REFUSED,
    ids=["type", "literal", "value", "twice", "id", "after"],
)
def test_a_sub_workflow_is_refused(
    build: Build, error: type[DeclarationError], parts: tuple[str, ...]
) -> None:
    refused(build, error, *parts)


def test_no_step_has_the_prefix_of_a_sub_workflow() -> None:
    # Below the step `pages` stand its items (`pages/0`), or a planner's turns (`pages/t1/x`).
    numbered = flow(lambda t: search(t, id="0"))
    refused(
        lambda t: (search.map(split(search(t)), id="pages"), numbered(t, id="pages"))[1],
        DuplicateStep,
        "'pages'",
        "id=",
    )
    refused(lambda t: read(numbered(t, id="x"), id="x"), DuplicateStep, "'x'", "id=")


# ---- refs have no value ----


LOOKS: list[tuple[Build, str]] = [
    (lambda ref: bool(ref), "Branch inside a node"),
    (lambda ref: not ref, "Branch inside a node"),
    (lambda ref: ref and 1, "Branch inside a node"),
    (lambda ref: list(ref), "tool.map"),
    (lambda ref: [each for each in ref], "tool.map"),  # noqa: C416
    (lambda ref: ref[0], "tool.map"),
    (lambda ref: 1 in ref, "tool.map"),
    (lambda ref: ref.text, ".text cannot be read"),
    (lambda ref: ref == 1, "Compare inside a node"),
    (lambda ref: ref != "x", "Compare inside a node"),
    (lambda ref: f"about {ref}", "Make the text inside a node"),
    (lambda ref: "about " + str(ref), "Make the text inside a node"),
]


@pytest.mark.parametrize(
    ("use", "part"),
    LOOKS,
)
def test_a_ref_has_no_value_and_says_where_to_look(use: Build, part: str) -> None:
    refused(lambda t: use(search(t)), DeclarationError, "'search'", "while the workflow", part)


def test_refs_are_compared_by_identity_and_shown_with_their_type() -> None:
    seen: list[Any] = []

    def build(t: Any) -> Any:
        page = search(t)
        seen.extend([page == page, page == t, page in [t, page], len({t, page}), repr(page)])  # noqa: PLR0124
        assert not hasattr(page, "__array__")
        return page

    flow(build)
    assert seen == [True, False, True, 2, "<ref of 'search': Page>"]


def test_a_ref_cannot_leave_its_workflow() -> None:
    kept: list[Any] = []
    made = flow(lambda t: (kept.append(t), search(t))[1])
    nodes: list[Any] = [read, archive, good, inner]
    for node in nodes:
        with pytest.raises(DeclarationError, match="'made', which is declared already"):
            node(kept[0])
    refused(lambda t: archive(kept[0]), DeclarationError, "'archive'", "call the node inside it")
    assert [step.key for step in made.graph.steps] == ["search"]


# ---- what is refused: inputs ----


def test_a_ref_of_another_workflow_is_an_unknown_input() -> None:
    message: list[str] = []

    def outer(t: Any) -> Any:
        page = search(t)
        refused_inside = refused(
            lambda u: merge(loose([]), page, after=u), UnknownInput, "'merge'", "two different"
        )
        message.append(refused_inside)
        refused(lambda u: search(u, after=page), UnknownInput, "'search'")
        refused(lambda u: inner(u, after=page), UnknownInput, "'made'")
        refused(lambda u: page, UnknownInput, "workflow 'made'", "another workflow")
        return page

    flow(outer)
    assert message


MISWIRED: list[tuple[Build, type[DeclarationError], tuple[str, ...]]] = [
    (lambda t: (search(t), search(t))[1], DuplicateStep, ("'made'", "'search'", "id=")),
    (
        lambda t: read(search(t, id="read")),
        DuplicateStep,
        ("'read'", "id="),
    ),
    (lambda t: (archive(t), search(t))[1], UnusedStep, ("'archive'", "'search'", "after=")),
    (
        lambda t: (read(archive(t)), plan(t), search(t))[2],
        UnusedStep,
        ("'archive', 'read', 'plan'", "Return the value"),
    ),
    (
        lambda t: search(Topic(text="")),
        DeclarationError,
        ("'search'", "literals only", "after="),
    ),
    (lambda t: search(t, id="a b"), DeclarationError, ("step id 'a b'", "1 to 64 letters")),
    (lambda t: search(t, id="$input"), DeclarationError, ("step id '$input'",)),
    (lambda t: search(t, id=""), DeclarationError, ("step id ''",)),
    (lambda t: search(t, id="x" * 65), DeclarationError, ("step id", "1 to 64")),
    (lambda t: search(t, id="ünï"), DeclarationError, ("step id 'ünï'",)),
    (lambda t: search(t, id="a\n"), DeclarationError, ("step id 'a\\n'",)),
    (lambda t: any_search(t, t), DeclarationError, ("'search' takes 1 inputs, got 2",)),
    (lambda t: loose(merge)(t), DeclarationError, ("'merge' takes 2 inputs, got 1",)),
    (lambda t: search(t, after=loose("x")), DeclarationError, ("'search'", "after=", "'x'")),
    (lambda t: search(t, after=[t, loose(1)]), DeclarationError, ("'search'", "after=")),
    (lambda t: t, DeclarationError, ("'made'", "returns its own input")),
    (lambda t: None, DeclarationError, ("'made'", "must return the Ref")),
    (lambda t: Page(text=""), DeclarationError, ("'made'", "must return the Ref")),
    (lambda t: (search(t), search(t, id="b")), DeclarationError, ("must return the Ref",)),
]


@pytest.mark.parametrize(
    ("build", "error", "parts"),
    MISWIRED,
)
def test_a_wrong_wiring_is_refused(
    build: Build, error: type[DeclarationError], parts: tuple[str, ...]
) -> None:
    refused(build, error, *parts)


# ---- what is refused: types ----


def gives(hint: Any) -> Any:
    """A tool that gives a type."""

    async def giver(ctx: Context, topic: Topic) -> Any: ...

    giver.__annotations__["return"] = hint
    return tool(giver)


def takes(hint: Any) -> Any:
    """A tool that takes a type."""

    async def taker(ctx: Context, given: Any) -> Page:
        return Page(text="")

    taker.__annotations__["given"] = hint
    return tool(taker)


class Box(BaseModel, Generic[T]):
    item: T


class Row(TypedDict):
    n: int


@dataclass
class Point:
    x: float


FITTING = [
    (Page, Page),
    (LongPage, Page),
    (Page, Page | None),
    (Page, Page | Unlike),
    (LongPage | Page, Page),
    (int, float),
    (bool, int),
    (list[LongPage], list[Page]),
    (list[Page], Sequence[Page]),
    (list[int], list[float]),
    (dict[str, LongPage], Mapping[str, Page]),
    (Box[int], Box[int]),
    (Page, Any),
    (Any, Page),
    (list[Any], list[Page]),
    (Row, Row),
    (Point, Point),
    (None, int | None),
]
UNFIT = [
    (Page, LongPage),
    (Page, Unlike),
    (Page | None, Page),
    (Page | Unlike, Page),
    (float, int),
    (str, int),
    (list[Page], list[LongPage]),
    (list[Page], Page),
    (Page, list[Page]),
    (dict[str, Page], dict[str, Unlike]),
    (list[Page], Sequence[Unlike]),
    (Page, Point),
    (Row, Page),
    (None, Page),
    (str, Sequence[str]),
]


@pytest.mark.parametrize(("given", "wanted"), FITTING, ids=str)
def test_what_fits_is_wired(given: Any, wanted: Any) -> None:
    flow(lambda t: takes(wanted)(gives(given)(t)))
    flow(lambda t: gives(given)(t), gives=wanted)


@pytest.mark.parametrize(("given", "wanted"), UNFIT, ids=str)
def test_what_does_not_fit_names_step_input_and_types(given: Any, wanted: Any) -> None:
    message = refused(
        lambda t: takes(wanted)(gives(given)(t), id="here"),
        TypeMismatch,
        "step 'here': input 'given' takes ",
        "but is given ",
        "Put a tool between them",
    )
    shown = getattr(wanted, "__name__", "") if isinstance(wanted, type) else ""
    assert shown in message
    refused(lambda t: gives(given)(t), TypeMismatch, "workflow 'made': its result", gives=wanted)


def test_a_type_is_shown_as_a_person_writes_it() -> None:
    refused(
        lambda t: takes(dict[str, int])(gives(Page | None)(t)),
        TypeMismatch,
        "takes dict[str, int], but is given ",
        "Page | None",
    )


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        (list[Topic], True),
        (tuple[Topic, ...], True),
        (tuple[Topic, Topic], True),
        (Sequence[Topic], True),
        (Any, True),
        (list[Any], True),
        (Topic, False),
        (list[Page], False),
        (list, False),
        (dict[str, Topic], False),
        (str, False),
        (set[Topic] | list[Topic], False),
    ],
    ids=str,
)
def test_map_takes_lists_of_what_the_tool_takes(given: Any, fits: bool) -> None:
    def build(t: Any) -> Any:
        return search.map(gives(given)(t))

    if fits:
        assert flow(build, gives=list[Page]).graph.steps[1].each
    else:
        refused(build, TypeMismatch, "step 'search'", gives=list[Page])


def test_map_gives_a_list() -> None:
    build: Build = lambda t: search.map(any_split(search(t), id="s"), id="m")
    flow(build, gives=Sequence[Page])
    refused(build, TypeMismatch, "its result", "list[", gives=Page)


def test_map_of_several_types_must_fit_each() -> None:
    refused(lambda t: search.map(gives(tuple[Topic, Page])(t)), TypeMismatch, "'search'", "Page")


def test_map_takes_one_input() -> None:
    refused(lambda t: loose(merge).map(t), DeclarationError, "'merge' takes 2 inputs, got 1")


@pytest.mark.parametrize(
    ("wanted", "value"),
    [(Page, 7), (Page, {"wrong": 1}), (int, "seven"), (float, float("nan")), (list[int], [1, "x"])],
)
def test_a_literal_must_fit_and_be_storable(wanted: Any, value: Any) -> None:
    refused(
        lambda t: takes(wanted)(value, id="here", after=t),
        TypeMismatch,
        "step 'here': input 'given'",
        type(value).__name__,
    )


def test_a_list_of_refs_is_no_literal() -> None:
    refused(
        lambda t: any_merge([search(t)], archive(t)), TypeMismatch, "step 'merge': input 'pages'"
    )


def test_findings_come_from_planners_only() -> None:
    flow(lambda t: tell(plan(t)))
    refused(
        lambda t: loose(tell)(search(t)), TypeMismatch, "step 'tell': input 'found'", "Findings"
    )
    refused(lambda t: loose(tell)(Findings(), after=t), TypeMismatch, "step 'tell': input 'found'")


# ---- what is refused: verification ----


MISVERIFIED: list[tuple[Build, type[DeclarationError], tuple[str, ...]]] = [
    (
        lambda t: good(t),
        DeclarationError,
        ("verifier 'good'", "the workflow's input", "verify what a step made of it"),
    ),
    (
        lambda t: good(publish(search(t))),
        DeclarationError,
        ("verifier 'good'", "'publish'", 'effect="once"', "attempts=1"),
    ),
    (
        lambda t: good((read | publish)(search(t))),
        DeclarationError,
        ("'read'", "'publish' has effect=\"once\""),
    ),
    (lambda t: good(Page(text=""), after=t), DeclarationError, ("'good'", "checks a literal")),
    (lambda t: good(search(t), attempts=0), DeclarationError, ("'good'", "at least 1")),
    (lambda t: good(gives(Unlike)(t)), TypeMismatch, ("step 'good': input 'page'",)),
    (lambda t: loose(good)(search(t), t), DeclarationError, ("'good' takes 1 inputs, got 2",)),
    (
        of_page(lambda p: agrees(p, read(p))),
        CycleFound,
        ("read -> agrees -> read", "'agrees'", "'search'", "before the verifier accepts"),
    ),
    (
        of_page(lambda p: agrees(p, read(read(p, id="one"), id="two"))),
        CycleFound,
        ("one", "two", "agrees"),
    ),
    (
        of_page(lambda p: good(p, after=read(p))),
        CycleFound,
        ("read -> good -> read",),
    ),
    (
        of_page(lambda p: agrees(p, inner(Topic(text=""), id="in", after=p))),
        CycleFound,
        ("agrees", "in/search", "in/read"),
    ),
    (
        of_page(lambda p: agrees(good(p), read(p))),
        CycleFound,
        ("agrees -> read -> agrees",),
    ),
]


@pytest.mark.parametrize(
    ("build", "error", "parts"),
    MISVERIFIED,
)
def test_a_wrong_verification_is_refused(
    build: Build, error: type[DeclarationError], parts: tuple[str, ...]
) -> None:
    refused(build, error, *parts, takes=Page if "the workflow's input" in parts else Topic)


def test_once_is_verified_with_one_attempt_or_before_its_effect() -> None:
    flow(lambda t: good(publish(search(t)), attempts=1))
    flow(lambda t: publish(good(search(t))))


def test_evidence_may_come_from_before_the_value() -> None:
    made = flow(of_page(lambda p: agrees(read(p), p)))
    assert made.graph.output == "read"


def test_a_verifier_of_a_value_that_is_used_need_not_be_returned() -> None:
    made = flow(of_page(lambda p: (good(p), read(p))[1]))
    assert [step.key for step in made.graph.steps] == ["search", "good", "read"]
    flow(lambda t: of_page(lambda p: (agrees(p, archive(t)), p)[1])(t))


def test_a_verifier_of_a_value_that_nobody_uses_is_unused() -> None:
    refused(lambda t: (good(archive(t)), search(t))[1], UnusedStep, "'archive', 'good'")


# ---- what is refused: functions ----


class Nameless:
    """As a node, as far as `again` looks at it."""

    def __init__(self) -> None:
        self.function: Build = lambda topic: topic


nameless = Nameless()


def wrong(declare: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declare()
    for part in parts:
        assert part in str(caught.value)


def unannotated(ctx: Context, topic: Topic) -> Page: ...
def no_result(ctx: Context, topic: Topic): ...
def no_context(topic: Topic) -> Page: ...
def nothing(ctx: Context) -> Page: ...
def with_default(ctx: Context, topic: Topic, n: int = 3) -> Page: ...
def with_star(ctx: Context, *topics: Topic) -> Page: ...
def with_keyword(ctx: Context, topic: Topic, *, n: int) -> Page: ...
def with_keywords(ctx: Context, topic: Topic, **n: int) -> Page: ...
def unknown_name(ctx: Context, topic: Topic) -> Page: ...
def nine(
    ctx: Context, a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int
) -> int: ...


del unannotated.__annotations__["topic"]
unknown_name.__annotations__["topic"] = "Nowhere"

MISDECLARED: list[tuple[Any, tuple[str, ...]]] = [
    (unannotated, ("'unannotated'", "annotate 'topic'")),
    (no_result, ("'no_result'", "annotate what it returns")),
    (no_context, ("'no_context'", "ctx: Context first")),
    (nothing, ("'nothing'", "takes 0 inputs", "1 to 8")),
    (nine, ("'nine'", "takes 9 inputs", "1 to 8")),
    (with_default, ("'with_default'", "'n' has a default", "Drop the default")),
    (with_star, ("'with_star'", "'topics' must be an ordinary positional", "decorator")),
    (with_keyword, ("'with_keyword'", "'n' must be an ordinary positional", "decorator")),
    (with_keywords, ("'with_keywords'", "'n' must be an ordinary positional", "decorator")),
    (unknown_name, ("'unknown_name'", "Nowhere", "must name types that exist")),
]


@pytest.mark.parametrize(
    ("function", "parts"),
    MISDECLARED,
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("decorator", [tool, verifier, planner], ids=lambda each: each.__name__)
def test_a_function_must_say_what_it_takes(
    decorator: Any, function: Any, parts: tuple[str, ...]
) -> None:
    wrong(lambda: decorator(function), decorator.__name__, *parts)


def test_a_class_must_say_what_it_takes() -> None:
    async def run(self: Any, ctx: Context, topic: Topic) -> Page: ...

    del run.__annotations__["topic"]
    wrong(lambda: type("Bad", (Node,), {"run": run}), "Bad.run", "annotate 'topic'")

    class Empty(Node[Topic, Page]):
        pass

    wrong(Empty, "Empty has no run()", "async def run(self, ctx: Context")


def test_other_functions_are_refused() -> None:
    @loose
    async def yields(ctx: Context, topic: Topic) -> Any:
        yield topic

    @loose
    def yields_too(ctx: Context, topic: Topic) -> Any:
        yield topic

    @loose
    async def says_yes(ctx: Context, page: Page) -> bool:
        return True

    @loose
    async def no_plan(ctx: Context, topic: Topic) -> Page:
        return Page(text="")

    wrong(lambda: tool(yields), "'yields' yields", "ctx.progress")
    wrong(lambda: tool(yields_too), "'yields_too' yields")
    wrong(lambda: verifier(says_yes), "'says_yes' must return None", "raise Reject")
    wrong(lambda: planner(no_plan), "'no_plan' must return Plan", "is a tool")
    wrong(lambda: again(planner(tools=loose([good])), plan), "'good' is a verifier")
    wrong(lambda: again(planner(tools=[search, search]), plan), "two tools of one name")
    wrong(lambda: again(tool(name="a b"), search), "tool 'a b' is not a name")
    wrong(lambda: again(tool(effect="once", retries=1), search), 'effect="once" with retries')
    wrong(lambda: again(tool(effect=loose("twice")), search), "effect='twice'", '"once"')
    wrong(lambda: again(tool, nameless), "'<lambda>'")


def test_a_workflow_takes_one_ref_and_gives_one() -> None:
    def none() -> Ref[Page]: ...

    def two(a: Ref[Topic], b: Ref[Topic]) -> Ref[Page]: ...

    def plain(a: Topic) -> Ref[Page]: ...

    def gives_plain(a: Ref[Topic]) -> Page: ...

    def optional(a: Ref[Topic]) -> Ref[Page] | None: ...

    def bare(a: Ref[Topic]) -> Ref[Page]: ...

    def untyped(a: Ref[Topic]) -> Ref[Page]: ...

    bare.__annotations__["a"] = Ref
    del untyped.__annotations__["a"]

    def default(a: Ref[Topic] | None = None) -> Ref[Page]: ...

    wrong(lambda: workflow(loose(none)), "workflow 'none' takes 0 inputs", "exactly one")
    wrong(lambda: workflow(loose(two)), "workflow 'two' takes 2 inputs", "Put them into a model")
    wrong(lambda: workflow(loose(plain)), "workflow 'plain'", "Ref[...], not Topic")
    wrong(lambda: workflow(loose(gives_plain)), "workflow 'gives_plain'", "Ref[...], not Page")
    wrong(lambda: workflow(loose(optional)), "workflow 'optional'", "Ref[...]")
    wrong(lambda: workflow(loose(bare)), "workflow 'bare'", "Ref[...]")
    wrong(lambda: workflow(loose(untyped)), "workflow 'untyped'", "annotate 'a'")
    wrong(lambda: workflow(loose(default)), "workflow 'default'", "has a default")
    wrong(lambda: again(workflow, nameless), "workflow '<lambda>' is not a name")


# ---- annotations as text, and classes that live in functions ----


def test_types_of_a_function_are_found_though_annotations_are_text() -> None:
    class Local(BaseModel):
        n: int

    @tool
    async def bare(ctx: Context, given: Local) -> Local:
        return given

    @tool(version="1")
    async def with_options(ctx: Context, given: Local) -> list[Local]:
        return [given]

    @verifier
    async def checks(ctx: Context, given: Local) -> None: ...

    @verifier(retries=1)
    async def checks_more(ctx: Context, given: Local) -> None: ...

    @planner
    async def plans(ctx: Context, given: Local) -> Plan | Local:
        return given

    @planner(tools=[bare])
    async def plans_more(ctx: Context, given: Local) -> Local | Plan:
        return given

    class Acts(Node[Local, Local]):
        async def run(self, ctx: Context, given: Local, /) -> Local:
            return given

    @workflow
    def flows(given: Ref[Local]) -> Ref[Local]:
        return Acts()(plans_more(plans(checks_more(checks(bare(given))))))

    for node in (bare, with_options, checks, checks_more, plans, plans_more, Acts()):
        assert node.takes == {"given": Local}
    assert (flows.takes, plans.gives, plans_more.gives) == (Local, Local, Local)
    assert with_options.gives == list[Local]


# ---- nodes ----


def test_class_nodes_have_names_policies_and_types() -> None:
    class Translate(Node[Page, Page], retries=2, timeout_s=5, effect="pure", version="3"):
        """Into French."""

        def __init__(self, language: str) -> None:
            super().__init__(name=f"to-{language}")

        async def run(self, ctx: Context, page: Page, /) -> Page:
            return page

    class Softer(Translate):
        """Its own class line, its parent's run."""

    french, german = Translate("fr"), Translate("de")
    made = flow(lambda t: german(french(search(t))))
    assert [step.key for step in made.graph.steps] == ["search", "to-fr", "to-de"]
    assert (french.policy.retries, french.policy.timeout_s, french.policy.effect) == (2, 5, "pure")
    assert (french.version, french.description) == ("3", "Into French.")
    assert Softer("x").takes == french.takes
    with pytest.raises(DeclarationError, match=r"retries=-1"):
        type("Bad", (Node,), {}, retries=-1)
    with pytest.raises(DeclarationError, match="node 'to-a b' is not a name"):
        Translate("a b")


def test_two_nodes_of_one_name_are_refused() -> None:
    class Twice(Node[Page, Page]):
        async def run(self, ctx: Context, page: Page, /) -> Page:
            return page

    refused(
        lambda t: Twice()(Twice()(search(t)), id="b"),
        DeclarationError,
        "two different nodes named 'Twice'",
        "rename one",
    )
    one = Twice()
    flow(lambda t: one(one(search(t)), id="b"))
    other = again(tool(name="search"), archive)
    refused(lambda t: read(other(t), after=search(t, id="s")), DeclarationError, "named 'search'")
    fooled = again(planner(tools=[other], name="fooled"), plan)
    refused(lambda t: search(t, after=fooled(t)), DeclarationError, "'search'", "rename one")


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: loose(search) | read, ("'search' | 'read'", "the same types")),
        (lambda: loose(search) | split, ("'search' | 'split'", "the same types")),
        (lambda: search | search, ("'search' | 'search'", "retries=")),
        (lambda: (search | archive) | search, ("the same node twice",)),
        (lambda: loose(read) | good, ("'read' | 'good'", "a verifier gives a verdict")),
    ],
)
def test_alternatives_must_be_alike(build: Callable[[], Any], parts: tuple[str, ...]) -> None:
    wrong(build, *parts)


def test_one_fallback_has_one_on() -> None:
    strict = Fallback(search, archive, on=(ValueError,))
    careful = flow(lambda t: strict(t))
    refused(
        lambda t: (search | archive)(split_first(t, after=strict(t, id="b"))),
        DeclarationError,
        "search | archive",
        "two different on=",
    )
    refused(
        lambda t: (search | archive)(t, after=careful(t, id="b")),
        DeclarationError,
        "search | archive",
        "two different on=",
    )


class Opaque:
    """No pydantic type."""


@pytest.mark.parametrize("hint", [Opaque, list[Opaque], Callable[[], int], type], ids=str)
def test_types_that_cannot_be_stored_are_refused(hint: Any) -> None:
    builds: list[Build] = [lambda t: takes(hint)(gives(Any)(t)), lambda t: gives(hint)(t)]
    for build in builds:
        refused(build, DeclarationError, "cannot be stored as JSON", "ctx.artifact(...)", gives=Any)


def test_a_result_that_cannot_be_stored_names_the_node() -> None:
    refused(lambda t: gives(Opaque)(t), DeclarationError, "giver: values of type Opaque", gives=Any)
    refused(
        lambda o: search(Topic(text=""), after=o), DeclarationError, "made's input", takes=Opaque
    )


# ---- fingerprints ----


def finger(node: Any) -> str:
    return str(node.spec().fingerprint)


def build_tool(source: str, decorator: str = "@tool") -> Any:
    """A tool out of a text, as another version of a file would declare it."""
    names: dict[str, Any] = {
        "tool": tool, "planner": planner, "Context": Context, "Topic": Topic, "Page": Page,
        "LongPage": LongPage, "Plan": Plan, "search": search, "archive": archive, "Any": Any,
    }  # fmt: skip
    exec(f"{decorator}\n{source}", names)  # noqa: S102
    return names["work"]


PLAIN = "async def work(ctx: Context, topic: Topic) -> Page:\n    return Page(text='')\n"


@pytest.mark.parametrize(
    ("source", "decorator"),
    [
        (PLAIN + "    # a comment\n", "@tool"),
        ("async def work(\n    ctx: Context,\n    topic: Topic,\n) -> Page:\n    ...\n", "@tool"),
        (PLAIN.replace("''", "'another body'"), "@tool"),
        (PLAIN, "@tool(retries=5)"),
        (PLAIN, "@tool(timeout_s=1, backoff_s=3, concurrency=2)"),
        (PLAIN, "@tool(name='renamed')"),
        (PLAIN.replace("async ", ""), "@tool"),
    ],
)
def test_what_does_not_change_a_fingerprint(source: str, decorator: str) -> None:
    assert finger(build_tool(source, decorator)) == finger(build_tool(PLAIN))


@pytest.mark.parametrize(
    ("source", "decorator"),
    [
        (PLAIN, "@tool(version='2')"),
        (PLAIN, "@tool(effect='once')"),
        (PLAIN, "@tool(effect='pure')"),
        (PLAIN.replace("-> Page", "-> LongPage"), "@tool"),
        (PLAIN.replace("topic: Topic", "topic: LongPage"), "@tool"),
        (PLAIN.replace("topic: Topic", "topic: Topic, n: int"), "@tool"),
        (PLAIN.replace("-> Page", "-> Page | None"), "@tool"),
        (PLAIN.replace("-> Page", "-> Plan"), "@planner"),
    ],
)
def test_what_changes_a_fingerprint(source: str, decorator: str) -> None:
    assert finger(build_tool(source, decorator)) != finger(build_tool(PLAIN))


def test_a_planner_s_fingerprint_holds_its_tools_and_whether_it_answers() -> None:
    source = PLAIN.replace("-> Page", "-> Plan")
    known = finger(build_tool(source, "@planner(tools=[search])"))
    assert finger(build_tool(source, "@planner(tools=[search], steps_max=3)")) == known
    stricter = again(tool(version="2"), archive)
    changed = again(planner(tools=[stricter], name="work"), build_tool(source, "@planner"))
    others = [
        finger(build_tool(source, "@planner")),
        finger(changed),
        finger(build_tool(source, "@planner(tools=[search, archive])")),
        finger(build_tool(source.replace("-> Plan", "-> Plan | Page"), "@planner(tools=[search])")),
    ]
    assert known not in others
    assert len(set(others)) == len(others)


def test_a_fallback_among_a_planner_s_tools_counts_its_alternatives() -> None:
    def planned(*tools: Any) -> str:
        return finger(again(planner(tools=list(tools), name="work"), plan))

    newer = again(tool(version="2"), archive)
    assert planned(search | archive) != planned(search)
    assert planned(search | archive) != planned(search | newer)


def test_a_change_is_described_line_by_line() -> None:
    old = flow(lambda t: read(search(t))).bound()
    assert describe_change(old, flow(lambda t: read(search(t))).bound()) == ()
    newer = again(tool(version="2"), search)
    assert describe_change(old, flow(lambda t: read(newer(t))).bound()) == (
        "node search: its types, tools, instructions or version changed",
    )
    assert describe_change(old, flow(lambda t: read(archive(t))).bound()) == (
        "node search: gone",
        "node archive: new",
        "step search: gone",
        "step archive: new",
        "step read: its inputs or alternatives changed",
    )
    assert describe_change(old, flow(lambda t: read(search(t), id="last")).bound()) == (
        "step read: gone",
        "step last: new",
        "output: read became last",
    )


def test_a_bound_graph_holds_what_a_fold_needs() -> None:
    @planner(tools=[search], turns_max=7, replans_max=1)
    async def answers(ctx: Context, topic: Topic) -> Plan | Page:
        return Page(text="")

    bound = flow(lambda t: publish(answers(t))).bound()
    assert isinstance(bound, Graph)
    assert sorted(bound.nodes) == ["answers", "publish", "search"]
    spec = bound.nodes["answers"]
    assert (spec.kind, spec.answers, spec.turns_max, spec.replans_max) == ("planner", True, 7, 1)
    assert bound.nodes["publish"].once
    assert all(spec.fingerprint for spec in bound.nodes.values())


def test_fatal_is_no_declaration_error() -> None:
    assert not issubclass(Fatal, DeclarationError)
