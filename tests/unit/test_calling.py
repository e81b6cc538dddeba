"""Calls of tools by a JSON schema (`tool_mode`), without a model: what is asked, what is understood."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, ToolCall
from flowkit.errors import BadModelAnswer
from flowkit.model import OpenAIModel, Profile
from flowkit.model.calling import bounded, by_schema, constrained, understood, written
from flowkit.model.leaks import RECOVERED_FROM
from flowkit.testing import strict_server

SEARCH = {
    "name": "search",
    "description": "Find pages.",
    "parameters": {
        "type": "object",
        "properties": {"query": {"type": "string"}},
        "required": ["query"],
    },
}
ANSWER = {**SEARCH, "name": "answer", "description": "Give the answer."}


def asked(*messages: ChatMessage, tools: Any = (SEARCH,), **more: Any) -> ModelRequest:
    return ModelRequest(messages or (ChatMessage("user", "Find lamps."),), tools=tools, **more)


def takes(request: ModelRequest, value: Any) -> bool:
    assert request.schema is not None
    return Draft202012Validator(dict(request.schema)).is_valid(value)


CALL = {"tool": "search", "arguments": {"query": "lamps"}}


def answered(text: str, finish: str = "stop") -> ModelAnswer:
    return ModelAnswer(ChatMessage("assistant", text), finish, model="small")


def test_the_schema_takes_a_call_of_an_offered_tool_or_a_reply_and_nothing_else() -> None:
    request = constrained(asked())
    assert request.tools == ()
    assert takes(request, CALL)
    assert takes(request, {"reply": "They shine."})
    wrongs: list[Any] = [
        {"tool": "delete", "arguments": {"query": "x"}},
        {"tool": "search", "arguments": {}},
        {"tool": "search", "arguments": {"query": "x", "more": 1}},
        {**CALL, "reply": "both"},
        "text",
    ]
    for wrong in wrongs:
        assert not takes(request, wrong), wrong


@pytest.mark.parametrize(
    ("tools", "settings", "call", "reply"),
    [
        ((SEARCH,), {"tool_choice": "required"}, True, False),
        ((SEARCH, ANSWER), {}, True, False),  # a planner's own tool ends the talk
        (
            (SEARCH, ANSWER),
            {"tool_choice": {"type": "function", "function": {"name": "answer"}}},
            False,
            False,
        ),
    ],
)
def test_where_a_reply_would_not_do_it_cannot_be_written(
    tools: Any, settings: Mapping[str, Any], call: bool, reply: bool
) -> None:
    request = constrained(asked(tools=tools, settings=settings))
    assert takes(request, CALL) is call
    assert takes(request, {"reply": "x"}) is reply
    assert "tool_choice" not in request.settings


def test_without_a_choice_of_tools_it_is_a_request_for_text() -> None:
    request = constrained(asked(settings={"tool_choice": "none"}))
    assert (request.schema, request.tools) == (None, ())


def test_definitions_of_two_tools_of_one_name_stay_apart() -> None:
    def tool(name: str, kind: str) -> dict[str, Any]:
        part = {"$ref": "#/$defs/Part"}
        return {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {"part": part},
                "required": ["part"],
                "$defs": {"Part": {"type": kind}},
            },
        }

    request = constrained(asked(tools=(tool("a", "string"), tool("b", "integer"))))
    assert takes(request, {"tool": "a", "arguments": {"part": "x"}})
    assert takes(request, {"tool": "b", "arguments": {"part": 1}})
    assert not takes(request, {"tool": "a", "arguments": {"part": 1}})
    assert not takes(request, {"tool": "b", "arguments": {"part": "x"}})


def test_everything_that_could_go_on_has_an_end() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "text": {"type": ["string", "null"]},
            "kind": {"enum": ["a", "b"]},
            "items": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/N"}]}},
            "own": {"type": "string", "maxLength": 9},
        },
        "$defs": {"N": {"type": "integer"}},
    }  # fmt: skip
    made = bounded(schema, 100)
    items = made["properties"]["items"]
    assert made["properties"]["text"]["maxLength"] == 200
    assert made["properties"]["own"]["maxLength"] == 9
    assert made["properties"]["kind"] == {"enum": ["a", "b"]}
    assert (items["maxItems"], items["items"]["anyOf"][0]["maxLength"]) == (8, 200)
    assert {"minimum", "maximum"} <= made["$defs"]["N"].keys()
    assert made["additionalProperties"] is False
    assert schema["properties"]["text"] == {"type": ["string", "null"]}, "the given one was changed"


def test_a_call_and_a_reply_are_understood() -> None:
    call = understood(answered(json.dumps(CALL)), asked())
    assert call.message.tool_calls == (ToolCall("call_1", "search", '{"query": "lamps"}'),)
    assert (call.message.content, call.finish_reason) == (None, "tool_calls")
    reply = understood(answered('{"reply": "They shine."}'), asked())
    assert (reply.message.content, reply.finish_reason) == ("They shine.", "stop")


def test_calls_of_a_talk_have_ids_of_their_own() -> None:
    before = ChatMessage("assistant", tool_calls=[ToolCall("call_1", "search", "{}")])
    result = ChatMessage("tool", "[]", tool_call_id="call_1")
    request = asked(ChatMessage("user", "x"), before, result)
    call = understood(answered(json.dumps(CALL)), request).message.tool_calls[0]
    assert call.id == "call_2"


@pytest.mark.parametrize("text", ['{"tool": "delete", "arguments": {}}', "{", "[]", "", "3"])
def test_what_is_neither_is_no_answer(text: str) -> None:
    with pytest.raises(BadModelAnswer, match="neither a call nor a reply") as told:
        understood(answered(text), asked())
    assert told.value.answer.message.content == text


def test_calls_and_results_stand_as_text_and_roles_take_turns() -> None:
    talk = (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Find lamps."),
        ChatMessage("assistant", tool_calls=[ToolCall("c", "search", '{"query": "lamps"}')]),
        ChatMessage("tool", '["a page"]', tool_call_id="c"),
        ChatMessage("user", "And now?"),
    )
    made = constrained(asked(*talk)).messages
    assert [message.role for message in made] == ["system", "user", "assistant", "user"]
    assert made[0].content is not None
    assert made[0].content.startswith("Be brief.")
    assert "search: Find pages." in made[0].content
    assert json.loads(made[2].content or "") == CALL
    assert made[3].content == 'Result of search:\n["a page"]\n\nAnd now?'
    assert not any(message.tool_calls or message.tool_call_id for message in made)
    # A longer talk begins with the same messages, which a server then has in its cache.
    longer = constrained(asked(*talk, ChatMessage("assistant", "It is here."))).messages
    assert longer[:4] == made


def test_a_wanted_schema_is_told_and_stays_the_answer() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    alone = constrained(asked(tools=(), schema=schema, schema_name="N"))
    assert takes(alone, {"n": 1})
    assert '"required": ["n"]' in (alone.messages[0].content or "")
    assert understood(answered('{"n": 1}'), asked(tools=())).message.content == '{"n": 1}'
    beside = asked(schema=schema, schema_name="N")
    assert takes(constrained(beside), {"reply": {"n": 1}})
    assert understood(answered('{"reply": {"n": 1}}'), beside).message.content == '{"n": 1}'


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "search", "arguments": {"query": "lamps"}}',
        '```json\n{"name": "search", "arguments": {"query": "lamps"}}\n```',
        'I look it up.\n```\n{"tool": "search", "parameters": {"query": "lamps"}}\n```\n',
        '<tool_call>\n{"name": "search", "arguments": "{\\"query\\": \\"lamps\\"}"}\n</tool_call>',
        '[{"type": "function", "function": {"name": "search", "arguments": {"query": "lamps"}}}]',
    ],
)
def test_a_call_that_stands_in_the_text_is_found(text: str) -> None:
    found = written(ChatMessage("assistant", text), frozenset({"search"}))
    assert [(call.name, json.loads(call.arguments)) for call in found.tool_calls] == [
        ("search", {"query": "lamps"})
    ]
    assert found.extra[RECOVERED_FROM] == "content"
    assert found.content in (None, "I look it up.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "They shine.",
        '{"name": "delete", "arguments": {}}',
        '{"name": "search", "arguments": {}, "price": 3}',
        'Ann wrote {"name": "search", "arguments": {}} there.',
        '```json\n{"name": "search", "arguments": {}}\n```\n```json\n{"n": 1}\n```',
        "[" * 5000,
    ],
)
def test_an_answer_that_only_looks_like_a_call_stays_one(text: str) -> None:
    message = ChatMessage("assistant", text)
    assert written(message, frozenset({"search"})) is message


async def test_a_reply_arrives_whole_and_a_call_is_not_shown() -> None:
    shown: list[str] = []

    async def show(delta: Delta) -> None:
        shown.append(delta.text)

    async def ask(text: str) -> None:
        async def given(request: ModelRequest, on_delta: Any) -> ModelAnswer:
            assert on_delta is None
            return answered(text)

        await by_schema(given, asked(), show)

    await ask(json.dumps(CALL))
    await ask('{"reply": "They shine."}')
    assert shown == ["They shine."]


# ---- over HTTP ----


@contextmanager
def scripted(
    replies: Sequence[str | tuple[int, object]], seen: list[dict[str, Any]], finish: str = "stop"
) -> Generator[str]:
    """A server that gives these texts, or errors, in turn; its base URL."""
    waiting = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = waiting.pop(0)
            status, body = reply if isinstance(reply, tuple) else (200, whole(reply, finish))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def whole(text: str, finish: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion", "model": "small", "choices": [choice]}


def model(base_url: str, profile: Profile | str) -> OpenAIModel:
    return OpenAIModel("small", base_url=base_url, api_key="k", profile=profile, environ={})


async def test_a_server_without_tools_is_asked_by_schema_from_then_on() -> None:
    refusal = {"error": {"message": "small does not support tools", "type": "api_error"}}
    replies = [(400, refusal), json.dumps(CALL), '{"reply": "They shine."}']
    seen: list[dict[str, Any]] = []
    with scripted(replies, seen) as url:
        async with model(url, "ollama") as asking:
            first = await asking.respond(asked())
            second = await asking.respond(asked())
    assert [bool(body.get("tools")) for body in seen] == [True, False, False]
    assert all(body["response_format"]["type"] == "json_schema" for body in seen[1:])
    assert [call.name for call in first.message.tool_calls] == ["search"]
    assert second.message.content == "They shine."


async def test_a_profile_may_have_every_call_made_by_schema() -> None:
    profile = replace(Profile.named("openai"), tool_mode="json_schema")
    with strict_server([json.dumps(CALL)], rules="openai") as server:
        async with model(server.base_url, profile) as asking:
            answer = await asking.respond(asked())
    assert [call.name for call in answer.message.tool_calls] == ["search"]
    assert "tools" not in server.bodies[0]


async def test_an_answer_that_was_cut_is_never_read_as_a_call() -> None:
    profile = replace(Profile.named("vllm"), tool_mode="json_schema")
    seen: list[dict[str, Any]] = []
    with scripted([json.dumps(CALL)], seen, finish="length") as url:
        async with model(url, profile) as asking:
            with pytest.raises(BadModelAnswer, match="cut off"):
                await asking.respond(asked())
