"""The stand-in for a language model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flowkit.chat import ChatMessage, Delta, ModelRequest, ToolCall
from flowkit.model import BadModelRequest, ModelError, NoModel, OfflineModel, facts
from flowkit.ports import Model

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asking(*texts: str, schema_name: str = "Sum", role: str = "user") -> ModelRequest:
    assert role in ("user", "system")
    messages = [ChatMessage("user" if role == "user" else "system", content=text) for text in texts]
    return ModelRequest(messages, schema={}, schema_name=schema_name)


def block(text: str) -> str:
    return f"Look:\n```json\n{text}\n```\nand answer."


def total(request: ModelRequest) -> str:
    return json.dumps({"total": sum(facts(request)["items"])})


async def test_it_answers_by_rule() -> None:
    model: Model = OfflineModel({"Sum": total})
    pieces: list[str] = []

    async def on_delta(piece: Delta) -> None:
        pieces.append(piece.text)

    request = asking(block('{"items": [1, 2]}'))
    first = await model.respond(request, on_delta=on_delta)
    assert first == await model.respond(request)
    assert first.message.content == '{"total": 3}'
    assert pieces == ['{"total": 3}']
    assert model.name == first.model == "flowkit-offline"
    assert first.usage.input_tokens == first.usage.output_tokens == 0


@pytest.mark.parametrize("name", ["", "Other"])
async def test_what_it_has_no_rule_for_is_refused(name: str) -> None:
    with pytest.raises(NoModel, match="No language model is configured") as caught:
        await OfflineModel({"Sum": total}).respond(asking("hi", schema_name=name))
    assert isinstance(caught.value, ModelError)
    assert not caught.value.retryable
    for variable in ("OPENAI_API_KEY", "MOONSHOT_API_KEY", "OPENAI_BASE_URL"):
        assert variable in str(caught.value)


async def test_a_rule_may_give_a_whole_message() -> None:
    told = ChatMessage("assistant", reasoning="By rule.", tool_calls=[ToolCall("c1", "look", "{}")])
    model = OfflineModel({"look": lambda request: told, "Sum": total})
    pieces: list[Delta] = []

    async def on_delta(piece: Delta) -> None:
        pieces.append(piece)

    request = replace(asking("hi", schema_name=""), tools=[{"name": "other"}, {"name": "look"}])
    answer = await model.respond(request, on_delta=on_delta)
    assert answer.message == told
    assert answer.finish_reason == "tool_calls"
    assert pieces == [Delta("", "By rule.")]
    named = replace(asking(block('{"items": [1]}')), tools=[{"name": "look"}])
    assert (await model.respond(named)).message.content == '{"total": 1}', "a schema comes first"
    with pytest.raises(NoModel, match="no rule for the tools other"):
        await model.respond(replace(request, tools=[{"name": "other"}]))


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([block('{"a": 1}')], {"a": 1}),
        ([block('{"a": 1}'), block('{"a": 2}')], {"a": 2}),
        ([block('{"a": 1}'), "and then?"], {"a": 1}),
        ([block('{"a": 1}') + "\n" + block('{"a": 2}')], {"a": 2}),
        (['```json\r\n{"a": 1}\r\n```'], {"a": 1}),
        (['  ```json\n  {\n "a": "x ``` y"\n}\n  ```'], {"a": "x ``` y"}),
        ([block(json.dumps({"a": "\n```\n```json\n{}\n```"}))], {"a": "\n```\n```json\n{}\n```"}),
    ],
)
def test_facts_are_the_last_block(texts: list[str], wanted: dict[str, object]) -> None:
    assert facts(asking(*texts)) == wanted


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["none"], "no ```json block"),
        (["```\n{}\n```"], "no ```json block"),
        ([block("{")], "is not JSON"),
        ([block("[1]")], "is not an object"),
        ([], "no ```json block"),
    ],
)
def test_missing_facts_are_explained(texts: list[str], text: str) -> None:
    with pytest.raises(BadModelRequest, match=text):
        facts(asking(*texts))


def test_only_user_messages_count() -> None:
    with pytest.raises(BadModelRequest):
        facts(asking(block("{}"), role="system"))


def test_an_error_that_was_recorded_says_the_same_once() -> None:
    told = str(NoModel())
    assert told.count("Set OPENAI_API_KEY") == 1
    assert str(NoModel(told)) == told
