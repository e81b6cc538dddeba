"""`flowkit.testing`: the scripted model, and the strict server as it is seen on the wire."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import anyio
import pytest
from pydantic import BaseModel

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, Usage
from flowkit.errors import (
    BadModelRequest,
    ContentFiltered,
    ModelError,
    ModelUnavailable,
    RateLimited,
)
from flowkit.model import OpenAIModel
from flowkit.testing import (
    FAULTS,
    TRANSIENT,
    Fault,
    Faults,
    Reply,
    Rule,
    Rules,
    ScriptedModel,
    ScriptOver,
    StrictServer,
    by_text,
    by_turn,
    calls,
    says,
    strict_server,
)
from flowkit.testing.__main__ import main
from flowkit.testing.leaks import LEAKS, Variant

Json = dict[str, Any]

# ---- the scripted model ----


def asking(*texts: str, **more: Any) -> ModelRequest:
    return ModelRequest([ChatMessage("user", content=text) for text in texts], **more)


class Point(BaseModel):
    x: int


async def test_a_list_is_given_in_order() -> None:
    model = ScriptedModel(["a", says("b", reasoning="hm"), Point(x=1), {"y": [2]}], name="m")
    answers = [await model.respond(asking("hi")) for _ in range(4)]
    assert [answer.message.content for answer in answers] == ["a", "b", '{"x":1}', '{"y":[2]}']
    assert answers[1].message.reasoning == "hm"
    assert {(answer.finish_reason, answer.model) for answer in answers} == {("stop", "m")}
    assert len(model.requests) == 4
    assert answers[0].usage == Usage(input_tokens=1, output_tokens=1)


async def test_a_script_that_is_over_says_so_and_is_not_asked_again() -> None:
    model = ScriptedModel(["a"])
    await model.respond(asking("hi"))
    with pytest.raises(ScriptOver, match=r"1 replies, and this is request 2.*user: 'more'") as over:
        await model.respond(asking("more"))
    assert not over.value.retryable
    assert not over.value.elsewhere


async def test_an_exception_is_raised_and_an_answer_given_as_it_is() -> None:
    answer = ModelAnswer(says("x"), "length", Usage(5, 6), "other")
    model = ScriptedModel([RateLimited("slow", retry_after_s=2), answer])
    with pytest.raises(RateLimited) as caught:
        await model.respond(asking())
    assert caught.value.retry_after_s == 2
    assert await model.respond(asking()) == answer


async def test_calls_get_ids_that_count_through_the_conversation() -> None:
    wanted = calls(("search", {"q": 1}), ("read", '{"cut'), text="I look", reasoning="hm")
    model = ScriptedModel(lambda request, index: wanted)
    first = await model.respond(asking("hi"))
    assert first.finish_reason == "tool_calls"
    assert [(call.id, call.arguments) for call in first.message.tool_calls] == [
        ("functions.search:0", '{"q":1}'),
        ("functions.read:1", '{"cut'),
    ]
    second = await model.respond(ModelRequest([ChatMessage("user", content="hi"), first.message]))
    assert [call.id for call in second.message.tool_calls] == [
        "functions.search:2",
        "functions.read:3",
    ]


async def test_a_rule_by_turn_or_text_gives_the_same_in_any_order() -> None:
    plan = by_turn([calls(("search", {})), "planned"])
    model = ScriptedModel(by_text({"Judge": "accepted", "Plan": plan}))
    later = ModelRequest(
        [
            ChatMessage("user", content="Plan it"),
            says("searching"),
            ChatMessage("tool", content="found"),
        ]
    )
    for _ in range(2):
        assert (await model.respond(later)).message.content == "planned"
        assert (await model.respond(asking("Plan it"))).message.tool_calls
        assert (await model.respond(asking("Plan", "Judge it"))).message.content == "accepted"
    with pytest.raises(ScriptOver, match="None of 'Judge', 'Plan' stands in the request"):
        await model.respond(asking("else"))
    over = replace(later, messages=[*later.messages, says("x")])
    with pytest.raises(ScriptOver, match="2 turns, and the request already holds 2"):
        await model.respond(over)


async def test_deltas_come_in_pieces_and_requests_are_kept_as_they_were() -> None:
    got: list[Delta] = []

    async def on_delta(piece: Delta) -> None:
        got.append(piece)

    messages = [ChatMessage("user", content="hi")]
    model = ScriptedModel([says("a text of some length", reasoning="a thought of some length")])
    await model.respond(ModelRequest(messages), on_delta=on_delta)
    messages.append(says("later"))
    assert "".join(piece.text for piece in got) == "a text of some length"
    assert "".join(piece.reasoning for piece in got) == "a thought of some length"
    assert len(got) > 4
    assert len(model.requests[0].messages) == 1


async def test_what_is_no_script_and_no_answer() -> None:
    with pytest.raises(TypeError, match="a list of replies"):
        ScriptedModel("text")
    with pytest.raises(TypeError, match="answers as assistant"):
        await ScriptedModel([ChatMessage("user", content="x")]).respond(asking())


# ---- the wire ----


@dataclass
class Got:
    """An answer as it came. `broken`: the transfer did not end as HTTP wants it."""

    status: int
    headers: Mapping[str, str]
    text: str
    broken: bool
    reset: bool = False

    @property
    def said(self) -> Json:
        found: Json = json.loads(self.text)
        return found

    @property
    def events(self) -> list[str]:
        """The data of the events; comments as they are."""
        return [event.removeprefix("data: ") for event in self.text.split("\n\n")[:-1]]

    @property
    def chunks(self) -> list[Json]:
        return [json.loads(event) for event in self.events if event.startswith("{")]

    @property
    def deltas(self) -> list[Json]:
        return [chunk["choices"][0]["delta"] for chunk in self.chunks if chunk["choices"]]

    @property
    def content(self) -> str:
        return "".join(delta.get("content", "") for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.get("reasoning_content", "") for delta in self.deltas)

    @property
    def finishes(self) -> list[str]:
        found = [c["choices"][0]["finish_reason"] for c in self.chunks if c["choices"]]
        return [finish for finish in found if finish is not None]


def connected(server: StrictServer) -> http.client.HTTPConnection:
    port = int(server.base_url.rpartition(":")[2].partition("/")[0])
    return http.client.HTTPConnection("127.0.0.1", port, timeout=20)


def exchange(
    connection: http.client.HTTPConnection,
    body: Json | bytes | None,
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
) -> Got:
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request("GET" if raw is None else "POST", path, raw, dict(headers or {}))
    answer = connection.getresponse()
    headers = dict(answer.headers)
    try:
        return Got(answer.status, headers, answer.read().decode(), broken=False)
    except http.client.IncompleteRead as cut:
        return Got(answer.status, headers, cut.partial.decode(), broken=True)
    except ConnectionResetError:
        return Got(answer.status, headers, "", broken=True, reset=True)


def send(server: StrictServer, body: Json | bytes | None, **more: Any) -> Got:
    with closing(connected(server)) as connection:
        return exchange(connection, body, **more)


@contextmanager
def serving(
    *replies: Reply, rules: str = "kimi-k2-thinking", **more: Any
) -> Generator[StrictServer]:
    with strict_server(replies or ["ok"] * 9, rules=rules, **more) as server:
        yield server


def user(text: Any = "hi") -> Json:
    return {"role": "user", "content": text}


def asked(*messages: Json, **more: Any) -> Json:
    return {"model": "m", "messages": list(messages) or [user()], **more}


SEARCH: Json = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {"type": "object", "properties": {"q": {"type": "integer"}}},
    },
}
CALLING = calls(("search", {"q": 1}), ("search", {"q": 2}), text="I look", reasoning="think hard")


def test_a_stream_is_moonshots() -> None:
    with serving(CALLING) as server:
        got = send(
            server,
            asked(tools=[SEARCH], stream=True, stream_options={"include_usage": True}),
        )
    assert server.violations == []
    assert got.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert got.events[-1] == "[DONE]"
    assert got.deltas[0] == {"role": "assistant", "content": ""}
    order = [next(iter(delta)) for delta in got.deltas[1:-1]]
    assert order == sorted(order, key=["reasoning_content", "content", "tool_calls"].index)
    assert (got.reasoning, got.content) == ("think hard", "I look")
    parts = [part for delta in got.deltas for part in delta.get("tool_calls", ())]
    assert [(p["index"], p["id"], p["function"]["name"]) for p in parts if "id" in p] == [
        (0, "functions.search:0", "search"),
        (1, "functions.search:1", "search"),
    ]
    for index, wanted in enumerate(('{"q":1}', '{"q":2}')):
        texts = [p["function"]["arguments"] for p in parts if p["index"] == index]
        assert "".join(texts) == wanted
        assert len(texts) > 2
    *_, last, usage = got.chunks
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["choices"] == []
    assert usage["usage"] == last["choices"][0]["usage"]
    assert usage["usage"]["total_tokens"] == sum(
        usage["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    )


def test_an_answer_in_one_piece_and_the_other_endpoints() -> None:
    with serving(CALLING, says("é\ud800")) as server, closing(connected(server)) as connection:
        got = exchange(connection, asked(tools=[SEARCH]))
        message = got.said["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("I look", "think hard")
        assert [call["id"] for call in message["tool_calls"]] == [
            "functions.search:0",
            "functions.search:1",
        ]
        assert exchange(connection, asked()).said["choices"][0]["message"]["content"] == "é\ud800"
        models = exchange(connection, None, "/v1/models").said
        assert [model["id"] for model in models["data"]] == ["kimi-k2-thinking"]
        path = "/v1/tokenizers/estimate-token-count"
        assert exchange(connection, asked(user("x" * 41)), path).said == {
            "data": {"total_tokens": 11}
        }
        missing = exchange(connection, asked(), "/v1/chat")
        assert (missing.status, missing.said["error"]["type"]) == (404, "resource_not_found_error")
        assert exchange(connection, None, "/").status == 404
    assert len(server.requests) == 2
    assert server.requests[0].tools == (SEARCH["function"],)
    assert server.bodies[1] == asked()


def test_a_request_is_read_as_flowkit_has_it() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    wanted = {"type": "json_schema", "json_schema": {"name": "N", "schema": {"type": "object"}}}
    with serving(rules="kimi-k3") as server:
        send(server, asked(user(parts), response_format=wanted, temperature=1, stream=True))
    (request,) = server.requests
    assert request.messages[0].content == "look"
    assert request.messages[0].media[0].url == "data:image/png;base64,AA=="
    assert (request.schema, request.schema_name) == ({"type": "object"}, "N")
    assert request.settings == {"temperature": 1}


def test_a_key_is_asked_for_where_there_is_one() -> None:
    with serving(key="sk-test") as server:
        assert send(server, asked(), headers={"Authorization": "Bearer sk-test"}).status == 200
        got = send(server, asked())
        assert (got.status, got.said["error"]["type"]) == (401, "invalid_authentication_error")
        assert send(server, None, path="/v1/models").status == 401


# ---- rules: what breaks each, and what keeps it ----


def call(id: str = "a", arguments: str = "{}", name: str = "search") -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*made: Json, reasoning: str | None = "r", content: Any = None) -> Json:
    message: Json = {"role": "assistant", "content": content, "tool_calls": list(made)}
    return message if reasoning is None else {**message, "reasoning_content": reasoning}


def result(id: str = "a", content: Any = "page") -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content}


def plain(text: Any = "done", reasoning: str | None = None, **more: Any) -> Json:
    message: Json = {"role": "assistant", "content": text, **more}
    return message if reasoning is None else {**message, "reasoning_content": reasoning}


def tool(name: str = "search", **parameters: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def properties(**made: Any) -> Json:
    return tool(type="object", properties=made)


def fixed(**more: Any) -> Json:
    return asked(user(), **more)


K2, K26, K27, K3, OPENAI = (
    "kimi-k2-thinking",
    "kimi-k2.6",
    "kimi-k2.7-code",
    "kimi-k3",
    "openai",
)
OFF = {"type": "disabled"}
ON = {"type": "enabled"}
LOOP = (user(), calling(call(), reasoning=None), result(), user("more"))
TEXTS = [{"type": "text", "text": ""}]

# rules, the rule's name, what breaks it, what keeps it
RULES: Sequence[tuple[str, str, Json | bytes, Json]] = [
    (K2, "shape", b"{", asked()),
    (K2, "shape", b"[]", asked()),
    (K2, "shape", asked(model=None), asked()),
    (K2, "shape", {"model": "m", "messages": []}, asked()),
    (K2, "shape", asked({"role": "human", "content": "x"}), asked()),
    (K2, "shape", asked(user(None)), asked(user([{"type": "text", "text": "x"}]))),
    (K2, "shape", asked(user([1])), asked()),
    (K2, "shape", asked(tools=[]), asked(tools=[SEARCH])),
    (K2, "shape", asked(tools=[{"name": "search"}]), asked(tools=[SEARCH])),
    (
        K2,
        "shape",
        asked(user(), calling({"id": "a"}), result()),
        asked(user(), calling(call()), result()),
    ),
    (
        K2,
        "shape",
        asked(user(), calling(call()), {"role": "tool", "content": "x"}),
        asked(user(), calling(call()), result(content="")),
    ),
    (
        K2,
        "call_unanswered",
        asked(user(), calling(call())),
        asked(user(), calling(call()), result()),
    ),
    (
        K2,
        "call_unanswered",
        asked(user(), calling(call("a"), call("b")), result("a"), user()),
        asked(user(), calling(call("a"), call("b")), result("b"), result("a"), user()),
    ),
    (
        K2,
        "call_answered_twice",
        asked(user(), calling(call()), result(), result()),
        asked(user(), calling(call("a"), call("b")), result("a"), result("b")),
    ),
    (K2, "call_unknown", asked(user(), result()), asked(user(), calling(call()), result())),
    (
        K2,
        "call_unknown",
        asked(user(), calling(call()), result(), user(), result()),
        asked(user(), calling(call()), result(), calling(call("b")), result("b")),
    ),
    (
        OPENAI,
        "ids_repeated",
        asked(user(), calling(call(), call(), reasoning=None), result()),
        asked(user(), calling(call(), call("b"), reasoning=None), result(), result("b")),
    ),
    (
        K2,
        "reasoning_missing",
        asked(user(), calling(call(), reasoning=None), result()),
        asked(user(), calling(call(), reasoning=""), result()),
    ),
    # Older turns: only where the generation keeps them.
    (K27, "reasoning_missing", asked(*LOOP), asked(user(), calling(call()), result(), user())),
    (K3, "reasoning_missing", asked(*LOOP), asked(user(), calling(call()), result(), user())),
    (
        K26,
        "reasoning_missing",
        asked(*LOOP, thinking={**ON, "keep": "all"}),
        asked(*LOOP, thinking=ON),
    ),
    (
        K26,
        "reasoning_missing",
        asked(user(), calling(call(), reasoning=None), result()),
        asked(user(), calling(call(), reasoning=None), result(), thinking=OFF),
    ),
    (K2, "empty_text", asked(user(TEXTS)), asked(user([{"type": "text", "text": "x"}]))),
    (
        K2,
        "empty_text",
        asked(user(), calling(call(), content=TEXTS), result()),
        asked(user(), calling(call(), content=""), result()),
    ),
    (K2, "empty_message", asked(user("")), asked(user("x"))),
    (K2, "empty_message", asked(user(), plain(""), user()), asked(user(), plain("x"), user())),
    (K2, "order", asked(user(), plain("x")), asked(user(), plain("x", partial=True))),
    (K2, "parameter", fixed(temperature=1.5), fixed(temperature=1.0)),
    (K26, "parameter", fixed(temperature=0.6), fixed(temperature=1.0)),
    (K26, "parameter", fixed(temperature=1.0, thinking=OFF), fixed(temperature=0.6, thinking=OFF)),
    (K26, "parameter", fixed(top_p=0.8), fixed(top_p=0.95)),
    (K26, "parameter", fixed(n=2), fixed(n=1)),
    (K27, "parameter", fixed(presence_penalty=0.5), fixed(presence_penalty=0)),
    (K3, "parameter", fixed(frequency_penalty=0.5), fixed(frequency_penalty=None)),
    (OPENAI, "parameter", fixed(thinking=ON), fixed(reasoning_effort="low")),
    (OPENAI, "parameter", fixed(max_tokens=9), fixed(max_completion_tokens=9)),
    (K2, "thinking", fixed(thinking=ON), fixed()),
    (K26, "thinking", fixed(thinking=True), fixed(thinking=ON)),
    (K26, "thinking", fixed(thinking={"type": "on"}), fixed(thinking=OFF)),
    (K26, "thinking", fixed(thinking=ON, reasoning_effort="low"), fixed(reasoning_effort="low")),
    (K27, "thinking", fixed(thinking=OFF), fixed(thinking=ON)),
    (K3, "thinking", fixed(thinking=ON), fixed(reasoning_effort="max")),
    (K3, "thinking", fixed(reasoning_effort="none"), fixed(reasoning_effort="low")),
    (
        K2,
        "tool_choice",
        fixed(tools=[SEARCH], tool_choice="required"),
        fixed(tools=[SEARCH], tool_choice="auto"),
    ),
    (
        K26,
        "tool_choice",
        fixed(tools=[SEARCH], tool_choice="required"),
        fixed(tools=[SEARCH], tool_choice="required", thinking=OFF),
    ),
    (
        K27,
        "tool_choice",
        fixed(tools=[SEARCH], tool_choice={"type": "function", "function": {"name": "search"}}),
        fixed(tools=[SEARCH], tool_choice="none"),
    ),
    (K2, "tool_name", fixed(tools=[tool("do")]), fixed(tools=[tool("do_")])),
    (K2, "tool_name", fixed(tools=[tool("a.b.c")]), fixed(tools=[tool("a-b_C")])),
    (K2, "tool_name", fixed(tools=[tool("1st")]), fixed(tools=[tool("x" * 64)])),
    (K2, "tool_name", fixed(tools=[SEARCH, SEARCH]), fixed(tools=[SEARCH, tool("read")])),
    (OPENAI, "tool_name", fixed(tools=[tool("a.b")]), fixed(tools=[tool("1")])),
    (
        K26,
        "tool_name",
        fixed(tools=[{"type": "builtin_function", "function": {"name": "$web_search"}}]),
        fixed(
            tools=[{"type": "builtin_function", "function": {"name": "$web_search"}}], thinking=OFF
        ),
    ),
    (
        K2,
        "tools_max",
        fixed(tools=[tool(f"tool{i}") for i in range(129)]),
        fixed(tools=[tool(f"tool{i}") for i in range(128)]),
    ),
    (
        K2,
        "tool_schema",
        fixed(tools=[properties(q={"enum": ["a"]})]),
        fixed(tools=[properties(q={"type": "string", "enum": ["a"]})]),
    ),
    (
        K2,
        "tool_schema",
        fixed(tools=[properties(q={"type": "array", "items": {"properties": {"r": {}}}})]),
        fixed(tools=[properties(q={"type": "array", "items": {}})]),
    ),
    (
        K2,
        "tool_schema",
        fixed(tools=[properties(q={"type": "string", "anyOf": [{"type": "string"}]})]),
        fixed(tools=[properties(q={"anyOf": [{"type": "string"}, {"type": "null"}]})]),
    ),
    (
        K2,
        "json_schema",
        fixed(response_format={"type": "json_schema", "json_schema": {"name": "N", "schema": {}}}),
        fixed(response_format={"type": "json_object"}),
    ),
    (K2, "context", asked(user("x" * 1_048_577)), asked(user("x" * 1_048_576))),
    (
        OPENAI,
        "field",
        asked(user(), plain("x", reasoning="r"), user()),
        asked(user(), plain("x", refusal=None), user()),
    ),
]


@pytest.mark.parametrize(("rules", "rule", "breaks", "keeps"), RULES)
def test_a_rule_is_broken_and_kept(
    rules: str, rule: str, breaks: Json | bytes, keeps: Json
) -> None:
    with serving(rules=rules) as server:
        got = send(server, keeps)
        assert (got.status, server.violations) == (200, [])
        got = send(server, breaks)
        assert got.status == 400
        assert {violation.rule for violation in server.violations} == {rule}
        assert got.said == {
            "error": {
                "message": server.violations[0].message,
                "type": "invalid_request_error",
            }
        }


def test_every_generation_has_its_rules() -> None:
    assert Rules.named("kimi-k3").context_tokens > Rules.named("kimi-k2.6").context_tokens
    with pytest.raises(ValueError, match=r"no rules 'kimi-k9'.*kimi-k2-thinking"):
        strict_server([], rules="kimi-k9").__enter__()
    small = replace(Rules.named("openai"), context_tokens=10)
    with strict_server(["x"], rules=small) as server:
        assert send(server, asked(user("x" * 40))).status == 200
        got = send(server, asked(user("x" * 41)))
    assert "exceeded model token limit : 10 (requested: 11)" in got.said["error"]["message"]


def altered(message: Json, **changes: Any) -> Json:
    return {**message, **changes}


def first_call(message: Json, **function: str) -> Json:
    first, *others = message["tool_calls"]
    return {
        **message,
        "tool_calls": [{**first, "function": {**first["function"], **function}}, *others],
    }


Change = Callable[[Json], Json]

CHANGES: Sequence[tuple[Change, str | None]] = [
    (lambda m: m, None),
    (lambda m: {k: v for k, v in m.items() if k != "reasoning_content"}, "reasoning_missing"),
    (lambda m: altered(m, reasoning_content="think"), "reasoning_altered"),
    (lambda m: altered(m, reasoning_content=""), "reasoning_altered"),
    (lambda m: first_call(m, arguments='{"q": 1}'), "arguments_altered"),
    (lambda m: altered(m, content=[{"type": "text", "text": "I look"}]), None),
]


@pytest.mark.parametrize(("change", "rule"), CHANGES)
def test_what_was_given_comes_back_as_it_was(change: Change, rule: str | None) -> None:
    with serving(CALLING, "done") as server:
        given = send(server, asked(tools=[SEARCH])).said["choices"][0]["message"]
        results = [result(made["id"]) for made in given["tool_calls"]]
        send(server, asked(user(), change(given), *results, tools=[SEARCH]))
    assert [violation.rule for violation in server.violations] == ([rule] if rule else [])


def test_ids_come_back_as_they_were() -> None:
    with serving(CALLING, "done") as server:
        given = send(server, asked(tools=[SEARCH])).said["choices"][0]["message"]
        given["tool_calls"][0]["id"] = "call_1"
        results = [result(made["id"]) for made in given["tool_calls"]]
        send(server, asked(user(), given, *results, tools=[SEARCH]))
    assert [violation.rule for violation in server.violations] == ["ids_altered"]


def test_no_reasoning_is_an_empty_one_and_must_come_back_too() -> None:
    with serving(calls(("search", {})), "done", "done") as server:
        given = send(server, asked()).said["choices"][0]["message"]
        assert given["reasoning_content"] == ""
        back = asked(user(), given, result(given["tool_calls"][0]["id"]))
        assert send(server, back).status == 200
        del given["reasoning_content"]
        assert send(server, back).status == 400


def test_a_text_of_another_model_needs_no_reasoning_but_ours_does() -> None:
    with serving("ours", "done", "done", rules="kimi-k3") as server:
        send(server, asked())
        assert send(server, asked(user(), plain("theirs"), user("more"))).status == 200
        assert send(server, asked(user(), plain("ours"), user("more"))).status == 400
    assert [violation.rule for violation in server.violations] == ["reasoning_missing"]


def test_openai_gives_no_reasoning() -> None:
    with serving(CALLING, rules="openai") as server:
        got = send(server, asked(stream=True))
    assert got.reasoning == ""
    assert "usage" not in got.chunks[-1]["choices"][0]


def test_a_script_that_is_over_or_fails_is_a_violation() -> None:
    def fails(request: ModelRequest, index: int) -> Reply:
        raise LookupError("no such page")

    with serving("one") as server:
        send(server, asked())
        assert "The script is over" in send(server, asked()).said["error"]["message"]
    assert [violation.rule for violation in server.violations] == ["script"]
    with strict_server(fails) as server, pytest.raises(http.client.RemoteDisconnected):
        send(server, asked())
    assert [str(violation) for violation in server.violations] == [
        "script: the script failed: LookupError: no such page"
    ]


# ---- faults, on the wire ----

EXPECTED: Mapping[str, tuple[int, str]] = {
    "overloaded": (429, "engine_overloaded_error"),
    "rate_limited": (429, "rate_limit_reached_error"),
    "rate_limited_seconds": (429, "rate_limit_reached_error"),
    "rate_limited_date": (429, "rate_limit_reached_error"),
    "rate_limited_ms": (429, "rate_limit_reached_error"),
    "rate_limited_text": (429, "rate_limit_reached_error"),
    "quota_exhausted": (429, "exceeded_current_quota_error"),
    "http_500": (500, "server_error"),
    "http_502": (502, "server_error"),
    "http_503": (503, "server_error"),
    "http_504": (504, "server_error"),
    "http_529": (529, "server_error"),
}


def faulty(fault: Fault, reply: Reply = CALLING, *, stream: bool = True) -> Got:
    """What comes with the fault; that the same request gets the whole answer next is asserted."""
    with serving(reply, faults=[fault]) as server:
        body = asked(tools=[SEARCH], stream=stream)
        got = send(server, body)
        again = send(server, body)
        assert again.status == 200
        assert ("functions.search:1" in again.text) == (reply is CALLING)
        assert server.faulted == [fault]
        assert server.violations == []
    return got


@pytest.mark.parametrize("name", EXPECTED)
def test_an_error_in_place_of_an_answer(name: str) -> None:
    got = faulty(FAULTS[name])
    assert (got.status, got.said["error"]["type"]) == EXPECTED[name]
    assert list(got.said["error"]) == ["message", "type"], "Moonshot's errors have no code"


def test_retry_after_in_every_form() -> None:
    waits = {
        name: (
            got.headers.get("Retry-After"),
            got.headers.get("retry-after-ms"),
            "after 0 seconds" in got.text,
        )
        for name in FAULTS
        if name.startswith("rate_limited")
        for got in [faulty(FAULTS[name])]
    }
    assert waits == {
        "rate_limited": (None, None, False),
        "rate_limited_seconds": ("0", None, False),
        "rate_limited_date": ("Wed, 21 Oct 2015 07:28:00 GMT", None, False),
        "rate_limited_ms": (None, "1", False),
        "rate_limited_text": (None, None, True),
    }
    assert faulty(Fault.rate_limited(retry_after="2")).headers["Retry-After"] == "2"
    assert faulty(Fault.overloaded(retry_after="3")).headers["Retry-After"] == "3"


@pytest.mark.parametrize("stream", [True, False])
def test_a_dropped_connection(stream: bool) -> None:
    with serving("x", faults=[Fault.dropped()]) as server:
        with pytest.raises(http.client.RemoteDisconnected):
            send(server, asked(stream=stream))
        assert send(server, asked(stream=stream)).status == 200


def test_a_client_that_dies_while_it_asks_breaks_no_rule() -> None:
    with strict_server(["hi"]) as server:
        host, port = server.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head + b'{"model": "m", "messages": [')
    assert server.violations == []
    assert server.bodies == []


def test_a_stream_is_cut_at_each_chunk() -> None:
    with serving(CALLING) as server:
        whole = send(server, asked(tools=[SEARCH], stream=True))
    assert len(whole.events) > 9
    for after in range(len(whole.events)):
        got = faulty(Fault.cut(after))
        assert (got.status, got.broken) == (200, False)
        assert got.events == whole.events[:after]
    for after in (0, 3):
        got = faulty(Fault.cut(after, how="close"))
        assert got.broken
        assert got.events == whole.events[:after]


def test_a_stream_is_reset() -> None:
    got = faulty(Fault.cut(after=3, how="reset"))
    assert (got.status, got.reset) == (200, True)


@pytest.mark.parametrize("how", ["end", "close"])
def test_an_answer_in_one_piece_is_cut(how: Any) -> None:
    got = faulty(Fault.cut(how=how), stream=False)
    assert got.broken
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(got.text)


def test_an_error_in_the_stream() -> None:
    got = faulty(Fault.error_chunk("server_error", "oops", after=2))
    assert len(got.events) == 3
    assert json.loads(got.events[-1]) == {"error": {"message": "oops", "type": "server_error"}}
    got = faulty(FAULTS["error_chunk"], stream=False)
    assert (got.status, got.said["error"]["type"]) == (200, "engine_overloaded_error")


def test_malformed_chunks() -> None:
    got = faulty(Fault.malformed(after=3))
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(got.events[3])
    assert got.events[-1] == "[DONE]"
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(faulty(FAULTS["malformed"], stream=False).text)


def test_chunks_without_choices() -> None:
    got = faulty(FAULTS["no_choices"])
    assert all(chunk["choices"] == [] for chunk in got.chunks)
    assert faulty(FAULTS["no_choices"], stream=False).said["choices"] == []
    odd = faulty(FAULTS["odd_chunks"])
    assert odd.chunks[0]["choices"] == []
    assert ": PROCESSING" in odd.events
    assert odd.content == "I look"


@pytest.mark.parametrize("stream", [True, False])
def test_a_silence(stream: bool) -> None:
    begin = time.monotonic()
    got = faulty(Fault.slow(0.05, after=0), stream=stream)
    assert time.monotonic() - begin >= 0.05
    assert "I look" in (got.content if stream else got.text)


def test_a_server_that_ends_waits_for_no_silence() -> None:
    begin = time.monotonic()
    with serving("x", faults=[Fault.slow(30)]) as server:
        thread = Thread(target=send, args=(server, asked(stream=True)))
        thread.start()
        while not server.faulted:
            pass
    thread.join()
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("variant", LEAKS)
@pytest.mark.parametrize("where", ["content", "reasoning"])
def test_leaked_calls(where: Any, variant: Any, stream: bool) -> None:
    got = faulty(Fault.leaked(where, variant=variant), stream=stream)
    if stream:
        texts = {"content": got.content, "reasoning": got.reasoning}
        finish, others = got.finishes, got.deltas
    else:
        choice = got.said["choices"][0]
        message = choice["message"]
        texts = {"content": message["content"], "reasoning": message["reasoning_content"]}
        finish, others = [choice["finish_reason"]], [message]
    text = texts[where]
    assert text.startswith("think hard<|tool" if where == "reasoning" else "I look<|tool")
    assert text.count("<|tool_call_begin|>") == (3 if variant == "broken" else 2)
    assert finish == ["stop"]
    assert not any("tool_calls" in each for each in others)


def test_leaks_differ_as_reported() -> None:
    texts = {
        variant: faulty(Fault.leaked(variant=variant)).content.removeprefix("I look")
        for variant in get_args(Variant)
    }
    assert texts.keys() == LEAKS.keys()
    assert len(set(texts.values())) == len(LEAKS)
    assert texts["plain"] == (
        "<|tool_calls_section_begin|>"
        '<|tool_call_begin|>functions.search:0<|tool_call_argument_begin|>{"q":1}<|tool_call_end|>'
        '<|tool_call_begin|>functions.search:1<|tool_call_argument_begin|>{"q":2}<|tool_call_end|>'
        "<|tool_calls_section_end|>"
    )
    assert "<|tool_call_section_begin|>" in texts["singular"]
    assert "<|tool_arguments_begin|>" in texts["arguments"]
    assert "<|tool_call_begin|>search:0<" in texts["no_prefix"]
    assert "<|tool_call_begin|>0<" in texts["counter"]
    assert "section_end" not in texts["no_end"]
    assert texts["sections"].count("section_begin") == 2
    assert '{\n  "q": 1\n}' in texts["spaced"]


def test_what_a_client_makes_of_a_leak_is_taken_back() -> None:
    with serving(CALLING, "done", faults=[Fault.leaked()]) as server:
        send(server, asked(tools=[SEARCH], stream=True))
        back = calling(call("x", '{"q":1}'), call("y", '{"q":2}'), content="I look")
        got = send(server, asked(user(), back, result("x"), result("y"), tools=[SEARCH]))
        assert (got.status, server.violations) == (200, [])


def test_calls_that_all_have_the_index_0() -> None:
    got = faulty(FAULTS["index_zero"])
    parts = [part for delta in got.deltas for part in delta.get("tool_calls", ())]
    assert [(p["index"], p["id"], p["function"]["arguments"]) for p in parts] == [
        (0, "functions.search:0", '{"q":1}'),
        (0, "functions.search:1", '{"q":2}'),
    ]
    assert got.finishes == ["tool_calls"]
    assert faulty(FAULTS["index_zero"], "text").content == "text"
    whole = faulty(FAULTS["index_zero"], stream=False)
    assert {made["index"] for made in whole.said["choices"][0]["message"]["tool_calls"]} == {0}


def test_finish_reasons_of_other_kinds() -> None:
    assert faulty(FAULTS["finish_stop"]).finishes == ["stop"]
    assert faulty(FAULTS["finish_twice"]).finishes == ["tool_calls", "tool_calls"]
    assert faulty(FAULTS["finish_none"]).finishes == []
    got = faulty(FAULTS["finish_none"], stream=False)
    assert got.said["choices"][0]["finish_reason"] is None


def test_nothing_but_reasoning() -> None:
    got = faulty(FAULTS["reasoning_only"])
    assert (got.reasoning, got.content, got.finishes) == ("think hard", "", ["stop"])
    assert not any("tool_calls" in delta for delta in got.deltas)


# ---- faults, by lot and by rule ----


def drawn(faults: Faults, count: int = 400) -> list[Fault | None]:
    return [faults.draw(f"request {number}", 0) for number in range(count)]


def test_a_lot_is_the_same_whenever_it_is_drawn_and_no_request_is_hit_for_ever() -> None:
    faults = Faults(rate=0.25, seed=7)
    first = drawn(faults)
    assert first == drawn(Faults(rate=0.25, seed=7))
    assert first != drawn(Faults(rate=0.25, seed=8))
    hit = [fault for fault in first if fault is not None]
    assert 60 < len(hit) < 140
    assert {fault.kind for fault in hit} >= {"http", "cut", "dropped", "malformed"}
    assert {fault.kind for fault in hit} <= {FAULTS[name].kind for name in TRANSIENT}
    assert len({fault.after for fault in hit if fault.kind == "cut"}) > 3
    assert all(Faults(rate=1, times=2).draw("r", nth) for nth in (0, 1))
    assert Faults(rate=1, times=2).draw("r", 2) is None


def test_faults_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        Faults(rate=2)
    with pytest.raises(ValueError, match="no fault 'slowly'"):
        Faults(rate=0.5, kinds=["slowly"])


def test_faults_by_a_rule_and_in_order() -> None:
    def twice(request: ModelRequest, nth: int) -> Fault | None:
        return Fault.http(503) if "b" in (request.messages[0].content or "") and nth < 2 else None

    with serving(faults=twice) as server:
        statuses = [send(server, asked(user(text))).status for text in "abbbb"]
    assert statuses == [200, 503, 503, 200, 200]
    with serving(faults=[None, Fault.http(502)]) as server:
        assert [send(server, asked()).status for _ in range(4)] == [200, 502, 200, 200]


def test_a_model_error_of_the_script_is_told_over_http() -> None:
    errors = [
        RateLimited("slow", retry_after_s=2),
        ContentFiltered("no"),
        BadModelRequest("bad"),
        ModelUnavailable("busy", status=502),
        ModelUnavailable("busy", status=429),
    ]
    with serving(*errors, ConnectionError("gone")) as server:
        got = [send(server, asked()) for _ in errors]
        with pytest.raises(http.client.RemoteDisconnected):
            send(server, asked())
    assert [(each.status, each.said["error"]["type"]) for each in got] == [
        (429, "rate_limit_reached_error"),
        (400, "content_filter"),
        (400, "invalid_request_error"),
        (502, "server_error"),
        (429, "engine_overloaded_error"),
    ]
    assert got[0].headers["Retry-After"] == "2"
    assert server.violations == []


# ---- a client of ours ----

TOOLS = [SEARCH["function"]]


def researcher(turns: int) -> Rule:
    """Two calls a turn, with reasoning; then a report."""
    steps = [
        calls(("search", {"q": turn}), ("search", {"q": -turn}), reasoning=f"turn {turn}")
        for turn in range(turns)
    ]
    return by_turn([*steps, says("the report", reasoning="enough")])


async def converse(model: OpenAIModel | ScriptedModel, *, again: int = 0) -> list[ChatMessage]:
    """A tool loop, as an agent runs it; a retryable error is tried again."""
    messages = [ChatMessage("system", content="Search."), ChatMessage("user", content="go")]
    while True:
        request = ModelRequest(tuple(messages), tools=TOOLS)
        for _ in range(again + 1):
            try:
                answer = await model.respond(request)
                break
            except ModelError as error:
                if not error.retryable:
                    raise
        else:
            raise AssertionError("more faults than there may be")
        messages.append(answer.message)
        if not answer.message.tool_calls:
            return messages
        for made in reversed(answer.message.tool_calls):
            messages.append(ChatMessage("tool", content="found", tool_call_id=made.id))


@pytest.mark.parametrize("rules", [K2, K26, K27, K3])
async def test_twenty_turns_of_our_client(rules: str) -> None:
    with strict_server(researcher(20), rules=rules, key="sk-test") as server:
        async with OpenAIModel(
            rules, api_key="sk-test", base_url=server.base_url, environ={}
        ) as model:
            messages = await converse(model)
    assert server.violations == []
    assert messages[-1].content == "the report"
    assert len(server.requests) == 21
    in_memory = await converse(ScriptedModel(researcher(20)))
    # Moonshot's stream begins with an empty content, also where none follows.
    bare = [replace(message, content=message.content or None, extra={}) for message in messages]
    assert bare == in_memory, "the same script says the same in memory and over HTTP"


async def test_twenty_turns_of_our_client_with_faults() -> None:
    faults = Faults(rate=0.5, seed=1)
    with strict_server(researcher(20), faults=faults) as server:
        async with OpenAIModel("kimi", base_url=server.base_url, environ={}) as model:
            messages = await converse(model, again=3)  # a reused connection may have closed, too
    assert server.violations == []
    assert messages[-1].content == "the report"
    assert len(server.faulted) > 5
    assert len(server.requests) == 21 + len(server.faulted)


async def test_many_conversations_at_once() -> None:
    with strict_server(researcher(5)) as server:
        model = OpenAIModel("kimi", base_url=server.base_url, environ={})
        async with model, anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(converse, model)
    assert server.violations == []
    assert len(server.requests) == 60


def test_three_hundred_turns_take_seconds() -> None:
    with strict_server(researcher(300)) as server, closing(connected(server)) as connection:
        messages = [user("go")]
        begin = time.process_time()
        while True:
            got = exchange(connection, asked(*messages, tools=[SEARCH]))
            messages.append(got.said["choices"][0]["message"])
            if "tool_calls" not in messages[-1]:
                break
            messages += [result(made["id"]) for made in messages[-1]["tool_calls"]]
        spent_s = time.process_time() - begin
    assert (len(server.requests), server.violations) == (301, [])
    assert spent_s < 10, "about 1.5 s of processor time, the client's half included"


# ---- the command ----

SCRIPT = """
from flowkit.testing import by_text
script = by_text({"hi": "hello"})
"""


@contextmanager
def command(*arguments: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "flowkit.testing", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def posted(base_url: str, body: Json) -> Got:
    host, _, path = base_url.removeprefix("http://").partition("/")
    with closing(http.client.HTTPConnection(host, timeout=20)) as connection:
        return exchange(connection, body, f"/{path}/chat/completions")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_a_script_to_other_processes(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "flows.py").write_text(SCRIPT)
    with command(f"{tmp_path / 'flows.py'}:script", "--rules", "openai") as (process, url):
        assert posted(url, asked()).said["choices"][0]["message"]["content"] == "hello"
        process.send_signal(number)
        assert process.wait(20) == 0
    with command("--fault-rate", "1", "--fault", "http_503", "--context-tokens", "5") as (
        process,
        url,
    ):
        assert [posted(url, asked()).status for _ in range(2)] == [503, 200]
        assert posted(url, asked(user("x" * 21))).status == 400
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.startswith("context: Invalid request")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flows"], "write file.py:name"),
        (["gone.py:script"], "there is no such file"),
        (["json:script"], "json has no 'script'"),
        (["--rules", "kimi-k9"], "use one of kimi-k2-thinking"),
        (["--fault-rate", "2"], "0 to 1"),
    ],
)
def test_what_the_command_does_not_take(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=said):
        main(arguments)
    assert capsys.readouterr().out == ""
