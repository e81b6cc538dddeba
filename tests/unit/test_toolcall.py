"""A model's calls of tools: shown as schemas, read with care, refused in words for the model."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

from flowkit import Context
from flowkit.chat import ChatMessage, ToolCall
from flowkit.errors import DeclarationError
from flowkit.graft import graft
from flowkit.graph import Call, Source, Step
from flowkit.nodes import AnyNode, Findings, Plan, Planned, planner, tool
from flowkit.nodes.toolcall import (
    Read,
    corrected,
    correction,
    envelope_prompt,
    read_calls,
    settled_message,
    tool_schemas,
)
from flowkit.planning import apart, plan_schema
from flowkit.slot import Slot


class Page(BaseModel):
    """A page."""

    title: str = Field(title="The Title", description="what stands on top")
    below: list[Page] = []
    seen: date | None = None


@dataclass
class Money:
    cents: int
    to: str


class Options(TypedDict, total=False):
    depth: int


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    word: Annotated[str, Field(pattern="^[a-z]+$")]


class Loose(BaseModel):
    anything: Any
    either: Literal["a", 1, True] = "a"
    items: list = []  # type: ignore[type-arg]
    pair: tuple[int, Any] = (1, 2)


@tool
async def show(ctx: Context, page: Page) -> str:
    """Show a page."""
    return page.title


@tool
async def archive(ctx: Context, page: Page) -> str:
    return page.title


@tool
async def repeat(ctx: Context, word: str, times: int) -> str:
    return word * times


@tool(effect="once")
async def pay(ctx: Context, money: Money) -> str:
    return money.to


@tool
async def options(ctx: Context, given: Options) -> str:
    return str(given)


@tool
async def strict(ctx: Context, it: Strict) -> str:
    return it.word


@tool
async def maybe(ctx: Context, page: Page | None) -> str:
    return ""


@tool
async def loose(ctx: Context, it: Loose) -> str:
    return ""


TOOLS: list[AnyNode] = [show | archive, repeat, pay, options, strict, maybe, loose]


def message(*calls: tuple[str, str] | ToolCall, **more: Any) -> ChatMessage:
    made = [
        call if isinstance(call, ToolCall) else ToolCall(f"c{n}", *call)
        for n, call in enumerate(calls)
    ]
    return ChatMessage("assistant", tool_calls=made, **more)


def read(name: str, arguments: str) -> Read:
    (found,) = read_calls(message((name, arguments)), TOOLS)
    return found


# ---- what a model is shown ----


SCHEMAS = {schema["name"]: schema for schema in tool_schemas(TOOLS)}


def test_tools_are_shown_in_their_order_and_a_fallback_as_its_first() -> None:
    assert list(SCHEMAS) == ["show", "repeat", "pay", "options", "strict", "maybe", "loose"]
    assert SCHEMAS["show"]["description"] == "Show a page."
    assert tool_schemas(TOOLS) == tool_schemas(TOOLS)
    for schema in SCHEMAS.values():
        Draft202012Validator(schema["parameters"])
        json.dumps(schema)


def test_one_input_that_is_an_object_gives_its_own_properties() -> None:
    assert set(SCHEMAS["show"]["parameters"]["properties"]) == {"title", "below", "seen"}
    assert SCHEMAS["pay"]["parameters"]["required"] == ["cents", "to"]
    assert SCHEMAS["options"]["parameters"]["properties"] == {"depth": {"type": "integer"}}


def test_other_inputs_are_properties_by_their_names() -> None:
    assert SCHEMAS["repeat"]["parameters"] == {
        "type": "object",
        "properties": {"word": {"type": "string"}, "times": {"type": "integer"}},
        "required": ["word", "times"],
        "additionalProperties": False,
    }
    assert list(SCHEMAS["maybe"]["parameters"]["properties"]) == ["page"]


def test_titles_are_left_out_but_a_property_may_be_called_title() -> None:
    title = SCHEMAS["show"]["parameters"]["properties"]["title"]
    assert title == {"type": "string", "description": "what stands on top"}
    assert "The Title" not in json.dumps(SCHEMAS)


def untyped(schema: Any, at: str = "") -> list[str]:
    """Paths of schemas of properties and items that have neither a type nor alternatives."""
    found: list[str] = []
    for part in ("properties", "$defs"):
        for name, each in schema.get(part, {}).items():
            if not each.keys() & {"type", "anyOf", "$ref"} or {"type", "anyOf"} <= each.keys():
                found.append(f"{at}.{name}")
            found += untyped(each, f"{at}.{name}")
    for each in [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]:
        found += [] if each.keys() & {"type", "anyOf", "$ref"} else [at]
        found += untyped(each, at)
    return found + (untyped(schema["items"], at) if "items" in schema else [])


def test_every_property_has_a_type_or_alternatives_that_have() -> None:
    for schema in SCHEMAS.values():
        assert untyped(schema["parameters"]) == []
    either = SCHEMAS["loose"]["parameters"]["properties"]["either"]
    assert [each["type"] for each in either["anyOf"]] == ["string", "integer", "boolean"]
    assert {each["type"] for each in SCHEMAS["loose"]["parameters"]["properties"]["anything"]["anyOf"]} == {
        "string", "number", "boolean", "object", "array", "null",
    }  # fmt: skip
    assert read("loose", '{"anything": [1, {"a": null}], "either": 1}').how == "valid"
    assert read("loose", '{"anything": 1, "either": 2}').how == "broken"


def test_definitions_of_one_name_are_kept_apart() -> None:
    other = create_model("Page", pages=(int, ...))
    book = create_model("Book", page=(other, ...))

    async def both(ctx: Context, one: Page, two: Any) -> str:
        return ""

    both.__annotations__["two"] = book
    compare: AnyNode = tool(both)
    (schema,) = tool_schemas([compare])
    Draft202012Validator(schema["parameters"])
    call = message(("both", '{"one": {"title": "x"}, "two": {"page": {"pages": 3}}}'))
    assert read_calls(call, [compare])[0].how == "valid"
    call = message(("both", '{"one": {"pages": 3}, "two": {"page": {"title": "x"}}}'))
    error = read_calls(call, [compare])[0].error
    assert 'one: "title" is a required' in error
    assert 'two.page: "pages" is a required' in error


def test_a_plan_s_definitions_of_one_name_are_kept_apart() -> None:
    other = create_model("Page", pages=(int, ...), below=(list["Page"], []))

    def taking(name: str, kind: Any) -> AnyNode:
        async def it(ctx: Context, page: Any) -> str:
            return ""

        it.__annotations__["page"] = kind
        made: AnyNode = tool(name=name)(it)
        return made

    first = taking("first", Page)
    others = [taking("second", list[other]), taking("third", dict[str, other])]
    schema = plan_schema([first, *others])
    Draft202012Validator(schema)
    assert set(schema["$defs"]) == {"Page", "Page_2"}, "like ones are one"

    def fits(name: str, page: object) -> bool:
        plan: Any = {"steps": [{"id": "a", "tool": name, "args": {"page": page}}]}
        validator: Any = Draft202012Validator(schema)
        return bool(validator.is_valid(plan))

    assert fits("first", {"title": "x"})
    assert not fits("first", {"pages": 3})
    assert fits("second", [{"pages": 3}])
    assert not fits("second", [{"title": "x"}])
    assert fits("third", {"a": {"pages": 3}})
    assert fits("third", {"$step": "id"})


def test_definitions_keep_apart_from_what_is_named_with_a_number_already() -> None:
    def page(kind: str, name: str = "Page") -> dict[str, Any]:
        return {"$ref": f"#/$defs/{name}", "$defs": {name: {"type": kind}}}

    schemas, defs = apart([page("string"), page("null", "Page_2"), page("number"), page("number")])
    assert [schema["$ref"][8:] for schema in schemas] == ["Page", "Page_2", "Page_3", "Page_3"]
    assert defs == {
        "Page": {"type": "string"}, "Page_2": {"type": "null"}, "Page_3": {"type": "number"},
    }  # fmt: skip


def test_what_no_model_can_write_is_no_tool_for_one() -> None:
    @tool
    async def tell(ctx: Context, found: Findings) -> str:
        return ""

    with pytest.raises(DeclarationError, match="'found' takes Findings, which no model can write"):
        tool_schemas([tell])


# ---- calls that are read ----


def test_a_valid_call_is_a_planned_step_as_the_tool_itself_makes_it() -> None:
    found = read("show", ' {"title":"x"} ')
    planned = (show | archive).step(Page(title="x"), id="show-1")
    assert (found.how, found.planned, found.error) == ("valid", planned, "")
    assert found.arguments == ' {"title":"x"} '
    assert found.call == Call("c0", "show-1", "valid")
    assert not found.needs_correction
    found = read("repeat", '{"times": 3.0, "word": "a"}')  # 3.0 is an integer of JSON, too
    assert found.planned == Planned("repeat-1", "repeat", (Source(text='"a"'), Source(text="3")))


def test_what_is_read_can_be_grafted() -> None:
    @planner(tools=TOOLS)
    async def plan(ctx: Context, word: str) -> Plan:
        return Plan()

    reads = read_calls(message(("show", '{"title":"x"}'), ("show", '{"title":"y"}')), TOOLS)
    steps = [each.planned for each in reads if each.planned]
    made = graft(plan, Plan(steps), Slot(Step("plan", ("plan",))))
    assert [(step.key, step.nodes) for step in made] == [
        ("show-1", ("show", "archive")),
        ("show-2", ("show", "archive")),
    ]


pages = st.recursive(
    st.builds(Page, title=st.text(), seen=st.none() | st.dates()),
    lambda below: st.builds(Page, title=st.text(), below=st.lists(below, max_size=2)),
    max_leaves=4,
)


@given(pages, st.sampled_from([None, 2]), st.booleans())
def test_a_valid_call_stays_what_it_is(page: Page, indent: int | None, ascii: bool) -> None:
    raw = json.dumps(page.model_dump(mode="json"), indent=indent, ensure_ascii=ascii)
    found = read("show", raw)
    assert (found.how, found.arguments) == ("valid", raw)
    assert found.planned == show.step(page, id="show-1")


@given(pages)
def test_a_repaired_call_is_the_one_that_was_meant_or_refused(page: Page) -> None:
    raw = json.dumps(page.model_dump(mode="json"))
    for text in (raw[:-1], f"{raw[:-1]},}}", f"```json\n{raw}\n```", repr(json.loads(raw))):
        found = read("show", text)
        assert found.how in ("repaired", "broken")
        assert found.planned in (None, show.step(page, id="show-1"))


calls = st.builds(
    ToolCall,
    st.sampled_from(["", "a", "a-2", "call-1", " "]),
    st.sampled_from([each.name for each in TOOLS]) | st.text(max_size=5),
    st.text() | st.text(alphabet="{}[]\"':,\\nul1 title", max_size=30),
)


@given(st.lists(calls, max_size=6), st.booleans())
def test_whatever_a_model_writes_is_read(made: list[ToolCall], envelope: bool) -> None:
    said = message(*made, content="{")
    reads = read_calls(said, TOOLS, envelope=envelope)
    assert [each.tool for each in reads] == [call.name for call in made]
    assert len({each.id for each in reads}) == len(made)
    assert all(each.id for each in reads)
    steps = [each.step for each in reads if each.how != "unknown"]
    assert len(set(steps)) == len(steps)
    for each in reads:
        assert isinstance(json.loads(each.arguments), dict)
        assert (each.planned is None) == bool(each.error)
        assert each.call.how == "refused" if each.error else each.call.step == each.step
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each.step) or each.how == "unknown"
    assert reads == read_calls(said, TOOLS, envelope=envelope)
    settled = settled_message(said, reads)
    assert [call.id for call in settled.tool_calls] == [each.id for each in reads]
    again = read_calls(settled, TOOLS)
    assert settled_message(settled, again) is settled


@pytest.mark.parametrize("nothing", ["", " ", "null", "{}"])
def test_no_arguments_are_none_where_none_are_required(nothing: str) -> None:
    found = read("options", nothing)
    assert (found.how, found.planned) == ("valid", options.step({}, id="options-1"))
    assert json.loads(found.arguments) == {}
    assert read("repeat", nothing).how == "broken"


def test_ids_and_steps_are_told_apart() -> None:
    say = '{"title": "x"}'
    long_a, long_b = "x" * 62 + "ab", "x" * 62 + "cd"

    def named(name: str) -> AnyNode:
        async def it(ctx: Context, page: Page) -> str:
            return ""

        return tool(name=name)(it)

    said = [ToolCall(id, name, say) for id, name in (
        ("", "show"), ("a", "show"), ("a", "archive"), ("a-3", "show"), ("a", long_a), ("b", long_b),
    )]  # fmt: skip
    reads = read_calls(message(*said), [show, archive, named(long_a), named(long_b)])
    assert [each.id for each in reads] == ["call-1", "a", "a-4", "a-3", "a-5", "b"]
    assert [each.step for each in reads] == [
        "show-1", "show-2", "archive-1", "show-3", "x" * 62 + "-1", "x" * 62 + "-2",
    ]  # fmt: skip


def test_a_step_s_number_counts_the_calls_of_its_tool_not_those_that_run() -> None:
    reads = read_calls(message(("show", "?"), ("pay", "?"), ("show", '{"title": "x"}')), TOOLS)
    assert [each.step for each in reads] == ["show-1", "pay-1", "show-2"]


ERRORS = [
    ("show", "{}", 'the arguments: "title" is a required property'),
    ("show", '{"title": "x", "below": [{"title": 5}]}', 'below[0].title: 5 is not of type "string"'),
    ("show", '{"title": "x", "seen": "today"}', "seen: Input should be a valid date"),
    ("repeat", '{"word": "a", "times": "3"}', 'times: "3" is not of type "integer"'),
    ("repeat", '{"word": "a", "times": 1, "sep": ""}', "('sep' was unexpected)"),
    ("strict", '{"word": "a", "more": 1}', "('more' was unexpected)"),
    ("strict", '{"word": "A1"}', 'word: "A1" does not match "^[a-z]+$"'),
    ("maybe", '{"page": {"titel": "x"}}', 'page: "title" is a required property'),
    ("show", "[1]", "must be one JSON object, not [1]"),
    ("show", '"x"', "no valid JSON"),
    ("show", '{"title": ++}', "no valid JSON: Expecting value at character 10, near"),
    ("repeat", '{"word": 1, "times": [], "c": 1, "d": 2}', "word: 1 is not of type"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "part"), ERRORS, ids=str)
def test_errors_name_the_path_and_what_is_wanted(name: str, arguments: str, part: str) -> None:
    found = read(name, arguments)
    assert found.how == "broken"
    assert found.needs_correction
    assert part in found.error
    assert found.error.startswith(f"{name} was not called: ")
    assert found.call == Call("c0", how="refused", note=found.error)


def test_errors_are_short() -> None:
    items = [{"title": n} for n in range(1_000)]
    found = read("show", json.dumps({"title": {"x": "y" * 5_000}, "below": items}))
    assert len(found.error) < 1_200
    assert 'is not of type "string"; below[0].title' in found.error
    assert "; and more" in found.error


def test_additional_properties_are_taken_where_the_type_ignores_them() -> None:
    assert read("show", '{"title": "x", "more": 1}').planned == show.step(
        Page(title="x"), id="show-1"
    )


def test_an_unknown_tool_gives_the_nearest_names() -> None:
    found = read("shew", "{}")
    assert (found.how, found.step, found.needs_correction) == ("unknown", "", False)
    assert found.error.startswith("there is no tool 'shew'; did you mean show")
    assert read("zzzz", "?").error.startswith("there is no tool 'zzzz'; tools: show, repeat, pay")
    assert read("archive", "{}").how == "unknown"  # the second of `show | archive`


def test_a_schema_that_cannot_be_checked_leaves_it_to_pydantic() -> None:
    class Odd(BaseModel):
        word: Annotated[str, Field(pattern=r"^\p{L}+$")]
        far: Annotated[int, WithJsonSchema({"$ref": "http://127.0.0.1:9/none"})] = 0
        kind: Annotated[int, WithJsonSchema({"type": "number of things"})] = 0

    async def take(ctx: Context, odd: Any) -> str:
        return ""

    take.__annotations__["odd"] = Odd
    odd: AnyNode = tool(take)
    for field in ('"word": "é"', '"word": "é", "far": 1', '"kind": 1, "word": "é"'):
        assert read_calls(message(("take", f"{{{field}}}")), [odd])[0].how == "valid"
    error = read_calls(message(("take", '{"word": "1"}')), [odd])[0].error
    assert "word: String should match pattern" in error


# ---- a tool that must happen once, and the correction ----


BROKEN_PAY = "{'cents': 100, 'to': 'me'}"
GOOD_PAY = '{"cents": 100, "to": "me"}'


def test_a_once_tool_never_runs_on_a_repair() -> None:
    found = read("pay", BROKEN_PAY)
    assert (found.how, found.planned, found.needs_correction) == ("repaired", None, True)
    assert found.call.how == "refused"
    assert "it does not run on a guess" in found.call.note
    fixed = corrected(found, f"```json\n{GOOD_PAY}\n```", TOOLS)
    assert fixed.call == Call("c0", "pay-1", "corrected")
    assert fixed.planned == pay.step(Money(100, "me"), id="pay-1")
    for guess in (BROKEN_PAY, f"I meant {GOOD_PAY}", "", "null", "sorry"):
        still = corrected(found, guess, TOOLS)
        assert (still.how, still.planned, still.needs_correction) == ("broken", None, False)
        assert still.error
    assert read("pay", GOOD_PAY).how == "valid"


def test_once_holds_for_every_alternative() -> None:
    @tool
    async def ask(ctx: Context, money: Money) -> str:
        return ""

    (found,) = read_calls(message(("ask", BROKEN_PAY)), [ask | pay])
    assert found.needs_correction


def test_the_correction_asks_with_the_schema_and_what_is_wrong() -> None:
    found = read("repeat", '{"word": "a"}')
    request = correction(found, TOOLS)
    assert request.schema == SCHEMAS["repeat"]["parameters"]
    assert request.schema_name == "repeat"
    assert [each.role for each in request.messages] == ["system", "user"]
    asked = request.messages[1].content or ""
    assert '{"word": "a"}' in asked
    assert '"times" is a required property' in asked


def test_a_corrected_call_keeps_its_id_its_step_and_what_was_written() -> None:
    found = read_calls(message(("show", "{}"), ("show", "{}")), TOOLS)[1]
    fixed = corrected(found, '{"title": "x",}', TOOLS)
    assert (fixed.id, fixed.step, fixed.raw) == ("c1", "show-2", "{}")
    assert fixed.call == Call("c1", "show-2", "corrected")
    assert json.loads(fixed.arguments) == {"title": "x"}
    worse = corrected(found, '{"title": 1}', TOOLS)
    assert (worse.arguments, worse.needs_correction) == ("{}", False)
    assert 'title: 1 is not of type "string"' in worse.error


# ---- the message that goes back ----


def test_a_message_of_valid_calls_goes_back_as_it_came() -> None:
    said = message(("show", '{"title":"x" }'), reasoning="r", extra={"_a": 1})
    assert settled_message(said, read_calls(said, TOOLS)) is said
    plain = ChatMessage("assistant", "done")
    assert settled_message(plain, ()) is plain


def test_a_message_goes_back_with_json_objects_and_unique_ids() -> None:
    said = message(
        ToolCall("a", "show", "{'title': 'x'}"),
        ToolCall("a", "show", "{"),
        ToolCall("", "shew", '{"title":1}'),
        ToolCall("b", "show", '{"title":1}'),
        ToolCall("c", "options", ""),
        ToolCall("d", "nothing", "?"),
        content="text",
        reasoning="",
        extra={"_recovered_from": "content"},
    )
    reads = list(read_calls(said, TOOLS))
    settled = settled_message(said, reads)
    assert settled.tool_calls == (
        ToolCall("a", "show", '{"title":"x"}'),
        ToolCall("a-2", "show", "{}"),
        ToolCall("call-3", "shew", '{"title":1}'),
        ToolCall("b", "show", '{"title":1}'),
        ToolCall("c", "options", "{}"),
        ToolCall("d", "nothing", "{}"),
    )
    assert replace(settled, tool_calls=said.tool_calls) == said
    reads[1] = corrected(reads[1], '{"title":"y"}', TOOLS)
    assert settled_message(said, reads).tool_calls[1].arguments == '{"title":"y"}'


# ---- calls in an envelope ----


SAY = '{"tool": "show", "parameters": {"title": "x"}, "timeout": 5}'


@pytest.mark.parametrize(
    "content",
    [SAY, f"I show it.\n```json\n{SAY}\n```\nThat is all.", f"[{SAY}]", f"```\n{SAY}\n```"],
)
def test_an_envelope_is_read_where_it_is_asked_for(content: str) -> None:
    said = ChatMessage("assistant", content)
    assert read_calls(said, TOOLS) == ()
    (found,) = read_calls(said, TOOLS, envelope=True)
    assert found.call == Call("call-1", "show-1", "valid")
    assert found.planned == show.step(Page(title="x"), id="show-1")
    assert settled_message(said, [found]) is said


def test_several_envelopes_are_several_calls() -> None:
    pay_it = '{"tool": "pay", "parameters": {"cents": 1, "to": "me"}}'
    for content in (f"[{SAY}, {pay_it}]", f"```json\n{SAY}\n```\n\n```json\n{pay_it}\n```"):
        reads = read_calls(ChatMessage("assistant", content), TOOLS, envelope=True)
        assert [each.step for each in reads] == ["show-1", "pay-1"]


def test_a_mended_envelope_is_repaired() -> None:
    said = ChatMessage("assistant", "{'tool': 'pay', 'parameters': {'cents': 1, 'to': 'me'}}")
    (found,) = read_calls(said, TOOLS, envelope=True)
    assert (found.how, found.planned, found.needs_correction) == ("repaired", None, True)


def test_an_envelope_s_parameters_are_checked_like_any() -> None:
    for parameters, how in (
        ('"{\\"title\\": \\"x\\"}"', "valid"),
        ('{"title": 1}', "broken"),
        ("[]", "broken"),
        ("null", "broken"),
    ):
        said = ChatMessage("assistant", f'{{"tool": "show", "parameters": {parameters}}}')
        assert read_calls(said, TOOLS, envelope=True)[0].how == how


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "text",
        '{"tool": ["show"], "parameters": {}}',
        '{"tool": "show", "price": 3}',  # the user's own type has such a field
        '{"tool": "show", "parameters": {}, "price": 3}',
        f'{{"steps": [{SAY}]}}',
        f'It is {{"step": {SAY}}}.',
        json.dumps({"text": f"I called {SAY}"}),
        '{"price": 3, "of": "tool',
        "Use the `tool` {carefully}: it's {sharp.",
        "[1]",
        "[]",
    ],
)
def test_what_is_no_envelope_is_an_answer(content: str | None) -> None:
    assert read_calls(ChatMessage("assistant", content), TOOLS, envelope=True) == ()


def enveloped(content: str) -> tuple[Read, ...]:
    return read_calls(ChatMessage("assistant", content), TOOLS, envelope=True)


SAY_IT = '{"tool": "show", "parameters": {"title": "y"}}'


@pytest.mark.parametrize(
    "content",
    [
        f"{SAY}\n{SAY_IT}",
        f"I will show {SAY} and then {SAY_IT}, don't I?",
        f"First\n```json\n{SAY}\n```\nand then\n\n{SAY_IT}",
        f"```json\n{SAY}\n{SAY_IT}\n```",
        f"[{SAY}, {SAY_IT}",
    ],
)
def test_envelopes_anywhere_in_the_text_are_calls(content: str) -> None:
    assert [each.planned for each in enveloped(content)] == [
        show.step(Page(title="x"), id="show-1"),
        show.step(Page(title="y"), id="show-2"),
    ]


@pytest.mark.parametrize("name", ["parameters", "arguments", "args", "input"])
def test_parameters_have_synonyms(name: str) -> None:
    (found,) = enveloped(f'{{"id": "7", "tool": "show", "{name}": {{"title": "x"}}}}')
    assert found.planned == show.step(Page(title="x"), id="show-1")
    assert enveloped('{"tool": "options"}')[0].how == "valid"
    both = '{"tool": "show", "input": {"title": "y"}, "parameters": {"title": "x"}}'
    assert enveloped(both)[0].planned == found.planned


def test_an_enveloped_call_of_an_unknown_tool_gives_the_nearest_names() -> None:
    for content in ('{"tool": "shew", "parameters": {"title": "x"}}', "{'tool': 'shew'}"):
        (found,) = enveloped(content)
        assert (found.how, found.tool, found.planned) == ("unknown", "shew", None)
        assert "did you mean show" in found.error
    assert [each.how for each in enveloped(f'[{SAY}, {{"tool": "other"}}]')] == ["valid", "unknown"]


@pytest.mark.parametrize(
    "content",
    [
        '{"tool": "show", "parameters": {"title": "x',
        '{"parameters": {"title": ++}, "tool": "show"}',
        "So: {'tool' : 'show', 'parameters': {'title': +}} it is",
        '```json\n{"tool": "show", "parameters": {"title": "\\ud8\n```',
        '{"tool": "zzz", "parameters": {]}',
        '{"tool": ++}',
    ],
)
def test_an_envelope_that_cannot_be_read_is_a_broken_call(content: str) -> None:
    (found,) = enveloped(content)
    assert (found.how, found.planned, found.needs_correction) == ("broken", None, False)
    assert found.tool in ("show", "zzz", "")
    assert found.raw in content
    assert "cannot be read: " in found.error
    assert '{"tool": "NAME", "parameters": {…}}' in found.error
    assert found.call == Call("call-1", how="refused", note=found.error)
    assert len(found.error) < 400


def test_a_broken_envelope_beside_a_good_one_is_told_and_the_good_one_runs() -> None:
    reads = enveloped(f'{SAY} {{"tool": "pay", "parameters": {{"cents": 1, "to": "m')
    assert [(each.tool, each.how) for each in reads] == [("show", "valid"), ("pay", "broken")]


def test_an_envelope_in_need_of_a_bracket_is_repaired() -> None:
    for content in (SAY_IT[:-1], f"```json\n{SAY_IT[:-1]}\n```", f"{SAY_IT[:-1]}\n"):
        (found,) = enveloped(content)
        assert (found.how, found.raw) == ("repaired", '{"title":"y"}')


@pytest.mark.parametrize(
    ("timeout", "wanted"),
    [
        ("5", 5.0), ("0.5", 0.5), ("0", None), ("-1", None), ("true", None), ('"5"', None), ("null", None),
        ("[5]", None), ("1" + "0" * 400, None),
    ],
)  # fmt: skip
def test_an_envelope_may_name_a_time_out_in_seconds(timeout: str, wanted: float | None) -> None:
    (found,) = enveloped(
        f'{{"tool": "show", "parameters": {{"title": "x"}}, "timeout": {timeout}}}'
    )
    assert (found.how, found.timeout_s) == ("valid", wanted)
    assert read("show", '{"title": "x"}').timeout_s is None


def test_what_was_never_written_is_told_as_that() -> None:
    for nothing in ("", "  ", "null"):
        found = read("repeat", nothing)
        assert found.error == (
            "repeat was not called: it has no arguments, and needs word, times. Call it again with "
            "arguments that are one JSON object and fit its schema."
        )


def test_a_message_of_many_broken_calls_is_read_at_once() -> None:
    bad = '{"title": "' + 'a"b ' * 2_400 + '"}'  # 40 ms each, if it is repaired
    said = message(*[("show", bad)] * 100)
    begun = time.process_time()
    reads = read_calls(said, TOOLS)
    assert time.process_time() - begun < 2
    assert {each.how for each in reads[1:]} == {"broken"}
    for part in ('{"tool": "shew"}', '{"tool": "show", "parameters": ++}', '{"tool": "x'):
        begun = time.process_time()
        assert enveloped(part * (1_000_000 // len(part)))
        assert time.process_time() - begun < 2


def test_native_calls_come_before_an_envelope() -> None:
    said = message(("show", '{"title": "y"}'), content=SAY)
    (found,) = read_calls(said, TOOLS, envelope=True)
    assert json.loads(found.arguments) == {"title": "y"}


def test_the_prompt_of_envelopes_tells_of_every_tool() -> None:
    prompt = envelope_prompt(SCHEMAS.values())
    assert '{"tool": "NAME", "parameters": {…}}' in prompt
    assert '"timeout": SECONDS' in prompt
    for line, schema in zip(prompt.splitlines()[-len(SCHEMAS) :], SCHEMAS.values(), strict=True):
        assert json.loads(line) == schema
