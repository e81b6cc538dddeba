"""`OpenAIModel` against a real HTTP server on the loopback, under asyncio and trio."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from threading import Event, Thread
from typing import Any, ClassVar

import anyio
import pytest

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, ToolCall, Usage
from flowkit.model import (
    BadModelAnswer,
    BadModelRequest,
    ContentFiltered,
    ContextOverflow,
    ModelAuthError,
    ModelError,
    ModelNotFound,
    ModelUnavailable,
    OpenAIModel,
    Profile,
    QuotaExhausted,
    RateLimited,
)

KEY = "sk-test-4711-secret"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

pytestmark = pytest.mark.anyio


both_backends = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# ---- the server ------------------------------------------------------------------------------


@dataclass
class Reply:
    """What the server does with one request. `cut`: drop the connection in the middle."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    cut: bool = False
    hang: bool = False


@dataclass
class Seen:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Server(ThreadingHTTPServer):
    """Gives the replies in turn, the last one for ever, and keeps what it was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = []
        self.seen: list[Seen] = []
        self.connections = 0
        self.over = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hang_s_max: ClassVar[float] = 20.0

    @property
    def loopback(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def setup(self) -> None:
        self.loopback.connections += 1
        super().setup()

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.path, headers, json.loads(sent or b"{}"))
        self.loopback.seen.append(seen)
        replies = self.loopback.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        self.send_response(reply.status)
        for name, value in {"Content-Type": "text/event-stream", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(reply.body), reply.body) if reply.body else b"")
        if reply.hang:
            self.wfile.flush()
            self.loopback.over.wait(self.hang_s_max)
        if not (reply.cut or reply.hang):
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = reply.cut or reply.hang

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Generator[Server, None, None]:
    with Server() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


# ---- what it says ----------------------------------------------------------------------------


def events(*chunks: object, done: bool = True) -> bytes:
    texts = [json.dumps(chunk) for chunk in chunks] + (["[DONE]"] if done else [])
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def chunk(delta: object = None, finish: str | None = None, **choice: object) -> dict[str, Any]:
    only: dict[str, Any] = {"index": 0, "delta": delta or {}, "finish_reason": finish, **choice}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "served",
        "choices": [only],
    }


def usage_chunk(given: object) -> dict[str, Any]:
    return {**chunk(), "choices": [], "usage": given}


def say(*texts: str, finish: str | None = "stop") -> bytes:
    return events(*(chunk({"content": text}) for text in texts), chunk(finish=finish))


def error(message: str, **more: object) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


def asking(text: str = "hi", **more: Any) -> ModelRequest:
    return ModelRequest([ChatMessage("user", content=text)], **more)


async def ask(
    server: Server,
    *replies: Reply | bytes,
    request: ModelRequest | None = None,
    on_delta: Callable[[Delta], Any] | None = None,
    **options: Any,
) -> ModelAnswer:
    server.replies = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]
    given: dict[str, Any] = {"api_key": KEY, "base_url": server.url, "environ": {}, **options}
    async with OpenAIModel("m", **given) as model:
        return await model.respond(request or asking(), on_delta=on_delta)


# ---- answers ---------------------------------------------------------------------------------


@both_backends
async def test_a_streamed_answer_is_put_together(server: Server) -> None:
    pieces: list[Delta] = []

    async def on_delta(piece: Delta) -> None:
        pieces.append(piece)

    answer = await ask(
        server,
        events(
            {**chunk(), "choices": []},
            chunk({"role": "assistant", "content": None, "reasoning_content": "let "}),
            chunk({"reasoning_content": "me see"}),
            chunk({"content": "Hel"}),
            chunk({"content": "lo"}, finish=""),
            chunk(finish="stop"),
            usage_chunk({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}),
        ),
        on_delta=on_delta,
    )
    assert answer.message.content == "Hello"
    assert answer.message.reasoning == "let me see"
    assert pieces == [
        Delta(reasoning="let "),
        Delta(reasoning="me see"),
        Delta("Hel"),
        Delta("lo"),
    ]
    assert answer.usage == Usage(7, 3)
    assert (answer.finish_reason, answer.model) == ("stop", "served")
    seen = server.seen[0]
    assert seen.path == "/v1/chat/completions"
    assert seen.key == KEY
    assert seen.headers["content-type"] == "application/json"
    assert seen.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_usage_may_stand_in_the_choice_and_the_reason_come_twice(server: Server) -> None:
    given = {"prompt_tokens": 5, "completion_tokens": 2}
    answer = await ask(
        server,
        events(
            chunk({"content": "x"}),
            chunk(finish="stop", usage=given),
            chunk(finish="stop"),
        ),
    )
    assert answer.usage == Usage(5, 2)


REASONING: Sequence[tuple[list[dict[str, str | None]], str | None]] = [
    ([{"reasoning": "a"}, {"reasoning": "b"}], "ab"),
    ([{"reasoning": "a"}, {"reasoning": "b", "reasoning_content": "copy"}], "ab"),
    ([{"reasoning": "a", "reasoning_content": "a"}], "a"),
    ([{"reasoning": "a", "reasoning_content": ""}], "a"),
    ([{"reasoning": "a", "reasoning_content": None}], "a"),
    ([{"reasoning_content": ""}], ""),
    ([{"reasoning_content": None}], None),
    ([{}], None),
]


@pytest.mark.parametrize(("deltas", "wanted"), REASONING)
async def test_reasoning_is_read_once(
    server: Server, deltas: Sequence[object], wanted: str | None
) -> None:
    chunks = [*(chunk(delta) for delta in deltas), chunk({"content": "x"}, finish="stop")]
    answer = await ask(server, events(*chunks))
    assert answer.message.reasoning == wanted


def call_part(
    arguments: str | None = None, *, index: int | None = 0, id: str = "", name: str = ""
) -> dict[str, Any]:
    part: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        part["index"] = index
    if id:
        part["id"] = id
    if name:
        part["function"]["name"] = name
    return part


A, B = ToolCall("a", "search", '{"q": 1}'), ToolCall("b", "read", "{}")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            [
                [call_part("", id="a", name="search")],
                [call_part("", id="b", name="read", index=1)],
                [call_part('{"q"'), call_part("{}", index=1)],
                [call_part(": 1}")],
            ],
            id="by index",
        ),
        pytest.param(
            [
                [call_part('{"q": 1}', id="a", name="search")],
                [call_part("{}", id="b", name="read")],
            ],
            id="every index 0",
        ),
        pytest.param(
            [
                [call_part('{"q"', id="a", name="search", index=None)],
                [call_part(": 1}", id="a", index=None)],
                [call_part("{", id="b", name="read", index=None)],
                [call_part("}", index=None)],
            ],
            id="by id, then the last",
        ),
        pytest.param(
            [
                [call_part('{"q"', id="a", name="search")],
                [call_part(": 1}", id="other")],
                [call_part("{}", id="b", name="read", index=1)],
            ],
            id="another id in every piece",
        ),
        pytest.param(
            [
                [call_part('{"q"', id="a", name="search")],
                [call_part(": 1}", id="a", name="search")],
                [call_part("{}", id="b", name="read", index=1)],
            ],
            id="name and id repeated",
        ),
    ],
)
async def test_tool_calls_are_put_together(server: Server, parts: Sequence[object]) -> None:
    chunks = [chunk({"tool_calls": part}) for part in parts]
    answer = await ask(server, events(*chunks, chunk(finish="tool_calls")))
    assert tuple(answer.message.tool_calls) == (A, B)
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None


async def test_calls_without_ids_get_some_and_count_whatever_the_reason(server: Server) -> None:
    parts = [call_part("{}", name="x", index=0), call_part("{}", name="x", index=1)]
    answer = await ask(server, events(chunk({"tool_calls": parts}), chunk(finish="stop")))
    assert [call.id for call in answer.message.tool_calls] == ["chatcmpl-1-0", "chatcmpl-1-1"]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.extra == {"_finish_reason": "stop"}


async def test_a_reason_of_its_own_is_kept_but_means_stop(server: Server) -> None:
    answer = await ask(server, say("x", finish="repetition"))
    assert answer.finish_reason == "stop"
    assert answer.message.extra["_finish_reason"] == "repetition"


@both_backends
async def test_a_server_that_does_not_stream(server: Server) -> None:
    whole = {
        "id": "1",
        "model": "served",
        "choices": [
            {
                "message": {"role": "assistant", "content": "x", "tool_calls": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    plain = {"Content-Type": "application/json; charset=utf-8"}
    answer = await ask(server, Reply(json.dumps(whole).encode(), headers=plain))
    assert answer.message.content == "x"
    assert answer.usage == Usage(1, 1)
    with pytest.raises(RateLimited):
        await ask(server, Reply(error("slow", code=429), headers=plain))
    with pytest.raises(ModelUnavailable):
        await ask(server, Reply(b"{", headers=plain))


async def test_comments_in_the_stream_are_passed_over(server: Server) -> None:
    answer = await ask(server, b": PROCESSING\n\n" + say("x"))
    assert answer.message.content == "x"


async def test_an_answer_is_given_as_it_is(server: Server) -> None:
    request = asking(schema=SCHEMA, schema_name="N")
    answer = await ask(server, say('```json\n{"n": ', "1}\n```\n"), request=request)
    assert answer.message.content == '```json\n{"n": 1}\n```\n'


async def test_a_character_cut_in_two_is_whole_again(server: Server) -> None:
    answer = await ask(server, say("a\ud83d", "\ude00b", "\ud800"))
    assert answer.message.content == "a\U0001f600b\ufffd"


# ---- answers that are none -------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("done", [True, False])
async def test_a_stream_without_its_end_is_cut(server: Server, done: bool) -> None:
    with pytest.raises(ModelUnavailable, match="broke off after 4 characters") as caught:
        await ask(server, events(chunk({"content": "half"}), done=done))
    assert caught.value.retryable


@both_backends
@pytest.mark.parametrize(
    "reply",
    [
        Reply(events(chunk({"content": "half"}), done=False), cut=True),
        Reply(b"", cut=True),
        Reply(b'data: {"id": \n\n'),
        Reply(b"data: \xff\n\n"),
        Reply(error("x"), status=500, cut=True),
    ],
)
async def test_a_broken_connection_or_stream_is_retryable(server: Server, reply: Reply) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        await ask(server, reply)
    assert caught.value.retryable
    assert caught.value.__context__ is None


@both_backends
async def test_nobody_there() -> None:
    with serving() as gone:
        url = gone.url
    model = OpenAIModel("m", base_url=url, environ={})
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1.*check the base URL"):
        await model.respond(asking())


@pytest.mark.parametrize(
    ("chunks", "kind", "text"),
    [
        ([chunk({"content": '{"n": '}, finish="length")], BadModelAnswer, "token limit"),
        ([chunk({"content": "x"}, finish="max_tokens")], BadModelAnswer, "token limit"),
        ([chunk({"reasoning_content": "hm"}, finish="stop")], BadModelAnswer, "but reasoning"),
        ([chunk({"content": " \n"}, finish="stop")], BadModelAnswer, "has nothing in it"),
        ([chunk({"content": "x"}, finish="tool_calls")], BadModelAnswer, "has no calls"),
        ([chunk({"tool_calls": [call_part("{}")]}, finish="stop")], BadModelAnswer, "naming"),
        ([chunk({"content": "x"}, finish="content_filter")], ContentFiltered, "withheld"),
        ([chunk({"refusal": "I'd rather not"}, finish="stop")], ContentFiltered, "rather not"),
        ([chunk({"content": "x"}, finish="error")], ModelUnavailable, "broke off"),
        ([chunk({"content": "x"}, finish="abort")], ModelUnavailable, "broke off"),
    ],
)
async def test_answers_that_cannot_be_used(
    server: Server, chunks: Sequence[object], kind: type[ModelError], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught:
        await ask(server, events(*chunks))
    assert caught.value.retryable is (kind is not ContentFiltered)


async def test_a_cut_answer_is_kept_on_the_error(server: Server) -> None:
    with pytest.raises(BadModelAnswer) as caught:
        await ask(server, say("half", finish="length"))
    assert caught.value.answer is not None
    assert caught.value.answer.message.content == "half"
    assert caught.value.answer.finish_reason == "length"


# ---- errors ----------------------------------------------------------------------------------

ERRORS: Sequence[tuple[int, dict[str, Any], type[ModelError]]] = [
    (400, {"message": "bad", "type": "invalid_request_error"}, BadModelRequest),
    (400, {"message": "no", "type": "content_filter"}, ContentFiltered),
    (400, {"message": "exceeded model token limit : 262144 (requested: 9)"}, ContextOverflow),
    (400, {"message": "x", "code": "context_length_exceeded"}, ContextOverflow),
    (401, {"message": "no", "type": "invalid_authentication_error"}, ModelAuthError),
    (402, {"message": "Insufficient Balance"}, QuotaExhausted),
    (403, {"message": "not yours", "type": "permission_denied_error"}, ModelAuthError),
    (403, {"message": "account org-1 is suspended, check your balance"}, QuotaExhausted),
    (404, {"message": "gone", "type": "resource_not_found_error"}, ModelNotFound),
    (400, {"message": "gone", "code": "model_not_found"}, ModelNotFound),
    (408, {}, ModelUnavailable),
    (413, {}, ContextOverflow),
    (422, {"message": "bad"}, BadModelRequest),
    (429, {"message": "slow", "type": "rate_limit_reached_error"}, RateLimited),
    (429, {"message": "busy", "type": "engine_overloaded_error"}, ModelUnavailable),
    (429, {"message": "pay", "type": "exceeded_current_quota_error"}, QuotaExhausted),
    (429, {"message": "pay", "code": "insufficient_quota"}, QuotaExhausted),
    (500, {"message": "oops", "type": "server_error"}, ModelUnavailable),
    (503, {}, ModelUnavailable),
    (529, {}, ModelUnavailable),
]
RETRYABLE = (ModelUnavailable, RateLimited)


@pytest.mark.parametrize(("status", "said", "kind"), ERRORS)
async def test_http_errors(
    server: Server, status: int, said: dict[str, Any], kind: type[ModelError]
) -> None:
    reply = Reply(json.dumps({"error": said}).encode(), status, {"x-request-id": "trace-9"})
    with pytest.raises(ModelError) as caught:
        await ask(server, reply)
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.retryable is (kind in RETRYABLE)
    assert caught.value.__context__ is None
    message = str(caught.value)
    assert message.startswith(f"The model 'm' at 127.0.0.1:{server.server_port} answered {status}")
    assert said.get("message", "") in message
    assert "[trace trace-9]" in message
    assert len(server.seen) == 1, "the SDK must not retry"


@pytest.mark.parametrize(
    "body", [b"", b"<html>no</html>", b'{"error": "why"}', b'{"detail": "why"}', b"[1]", b"null"]
)
async def test_error_bodies_of_any_shape(server: Server, body: bytes) -> None:
    with pytest.raises(ModelNotFound, match="FLOWKIT_MODEL"):
        await ask(server, Reply(body, 404))


@pytest.mark.parametrize(
    ("headers", "text", "wanted"),
    [
        ({"Retry-After": "7"}, "", 7.0),
        ({"Retry-After": "0"}, "", 0.0),
        ({"retry-after-ms": "250", "Retry-After": "7"}, "", 0.25),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "", 0.0),
        ({"Retry-After": "soon"}, "", None),
        ({"Retry-After": "nan"}, "", None),
        ({}, "please try again after 3 seconds", 3.0),
        ({}, "Please try again in 1.5s.", 1.5),
        ({}, "Please try again in 20ms.", 0.02),
        ({}, "Try again in 2 minutes", 120.0),
        ({}, "slow down", None),
    ],
)
async def test_how_long_to_wait(
    server: Server, headers: dict[str, str], text: str, wanted: float | None
) -> None:
    with pytest.raises(RateLimited) as caught:
        await ask(server, Reply(error(text), 429, headers))
    assert caught.value.retry_after_s == pytest.approx(wanted)


@both_backends
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"error": {"message": "busy", "type": "engine_overloaded_error"}}, ModelUnavailable),
        ({"error": {"message": "slow", "type": "rate_limit_reached_error"}}, RateLimited),
        ({"error": {"message": "slow", "code": 429}}, RateLimited),
        ({"error": {"message": "bad", "code": 400, "type": "BadRequestError"}}, BadModelRequest),
        ({"error": {"message": "no", "code": "content_filter"}}, ContentFiltered),
        ({"error": {"message": "what"}}, ModelUnavailable),
        ({"error": "what"}, ModelUnavailable),
        ({"object": "error", "message": "bad", "code": 400}, BadModelRequest),
    ],
)
async def test_an_error_in_the_stream(
    server: Server, said: dict[str, Any], kind: type[ModelError]
) -> None:
    with pytest.raises(ModelError) as caught:
        await ask(server, events(chunk({"content": "x"}), said, done=False))
    assert type(caught.value) is kind


async def test_an_error_in_a_choice(server: Server) -> None:
    said = chunk(finish="error", error={"message": "upstream", "code": 502})
    with pytest.raises(ModelUnavailable, match="upstream"):
        await ask(server, events(said))


async def test_a_flood_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowkit.model.openai.ANSWER_CHARS_MAX", 1000)
    texts = [chunk({"content": "x" * 300})] * 4
    for flood in (events(*texts, done=False), b"data: " + b"x" * 2000, b": no\n" * 400):
        with pytest.raises(ModelUnavailable, match="More than 1000") as caught:
            await ask(server, Reply(flood, hang=True))
        assert not caught.value.retryable
    long = [b": much is passed over\n\n"] * 100
    answer = await ask(server, b"".join(long) + say("x"))
    assert answer.message.content == "x"


@both_backends
async def test_a_web_page_is_not_retried(server: Server) -> None:
    with pytest.raises(BadModelRequest, match="web page"):
        await ask(server, Reply(b"<html>", headers={"Content-Type": "text/html"}))


# ---- schema ----------------------------------------------------------------------------------


async def test_a_schema_is_sent_as_response_format(server: Server) -> None:
    request = asking(schema=SCHEMA, schema_name="My.Number[int]")
    await ask(server, say('{"n": 1}'), request=request)
    assert server.seen[0].body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "My_Number_int_", "schema": SCHEMA},
    }


@both_backends
async def test_a_refused_schema_is_asked_for_otherwise_and_that_is_remembered(
    server: Server,
) -> None:
    server.replies = [
        Reply(error("'response_format' is not supported by this model"), 400),
        Reply(error("tools are not supported by this model"), 400),
        Reply(say('{"n": 1}')),
    ]
    request = ModelRequest(
        [ChatMessage("system", content="Be short."), ChatMessage("user", content="hi")],
        schema=SCHEMA,
        schema_name="N",
    )
    async with OpenAIModel("m", base_url=server.url, environ={}) as model:
        first = await model.respond(request)
        second = await model.respond(request)
    assert first.message.content == second.message.content == '{"n": 1}'
    tried, forced, again, later = (seen.body for seen in server.seen)
    assert "response_format" in tried
    assert forced["tool_choice"] == {"type": "function", "function": {"name": "as_N"}}
    assert not {"response_format", "tools", "tool_choice"} & again.keys()
    assert again == later
    system = again["messages"][0]["content"]
    assert system.startswith("Be short.\n\n")
    assert json.dumps(SCHEMA) in system
    assert again["messages"][1:] == tried["messages"][1:]
    assert server.connections == 1, "connections are used again"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asking(schema=SCHEMA), "temperature must be 1"),
        (asking(), "response_format is not supported"),
    ],
)
async def test_other_refusals_are_not_tried_again(
    server: Server, request_: ModelRequest, message: str
) -> None:
    with pytest.raises(BadModelRequest, match=message):
        await ask(server, Reply(error(message), 400), request=request_)
    assert len(server.seen) == 1


async def test_every_way_to_ask_for_a_schema_is_tried_once(server: Server) -> None:
    with pytest.raises(BadModelRequest):
        await ask(server, Reply(error("json_schema: no"), 400), request=asking(schema=SCHEMA))
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("modes", "sent"),
    [
        ({"auto", "named"}, {"type": "function", "function": {"name": "My_Number"}}),
        ({"auto", "required"}, "required"),
    ],
)
async def test_the_arguments_of_a_forced_call_are_the_answer(
    server: Server, modes: set[Any], sent: object
) -> None:
    profile = Profile("forcing", json_schema=False, tool_choice=frozenset(modes))
    part = call_part('{"n": 1}', id="a", name="My_Number")
    answer = await ask(
        server,
        events(chunk({"tool_calls": [part]}, finish="tool_calls")),
        request=asking(schema=SCHEMA, schema_name="My Number", settings={"tool_choice": "none"}),
        profile=profile,
    )
    assert (answer.message.content, answer.message.tool_calls) == ('{"n": 1}', ())
    assert answer.finish_reason == "stop"
    body = server.seen[0].body
    assert body["tool_choice"] == sent
    assert [tool["function"]["parameters"] for tool in body["tools"]] == [SCHEMA]


async def test_a_profile_without_schemas_asks_in_the_prompt_at_once(server: Server) -> None:
    modes = frozenset[Any]({"auto", "none"})
    profile = Profile("plain", json_schema=False, usage_in_stream=False, tool_choice=modes)
    await ask(server, say('{"n": 1}'), request=asking(schema=SCHEMA), profile=profile)
    body = server.seen[0].body
    assert "response_format" not in body
    assert "stream_options" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


# ---- what is sent ----------------------------------------------------------------------------


async def test_a_conversation_with_tools_is_sent_back(server: Server) -> None:
    first = await ask(
        server,
        events(
            chunk({"reasoning": "look"}),
            chunk({"tool_calls": [call_part("{}", id="b", name="read")]}, finish="tool_calls"),
        ),
    )
    tool = {"name": "read", "description": "Reads.", "parameters": {"type": "object"}}
    request = ModelRequest(
        [
            ChatMessage("user", content="hi", extra={"name": "ann", "_note": 1}),
            first.message,
            ChatMessage("tool", content="a page", tool_call_id="b"),
        ],
        tools=[tool, {"type": "function", "function": tool}],
        settings={"tool_choice": "auto"},
    )
    await ask(server, say("x"), request=request)
    body = server.seen[-1].body
    assert body["messages"] == [
        {"role": "user", "content": "hi", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "look",
            "tool_calls": [
                {"id": "b", "type": "function", "function": {"name": "read", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "content": "a page", "tool_call_id": "b"},
    ]
    assert body["tools"] == [{"type": "function", "function": tool}] * 2
    assert body["tool_choice"] == "auto"
    await ask(server, say("x"), request=request, profile="openai")
    assert "reasoning" not in server.seen[-1].body["messages"][1]


async def test_settings_are_sent_as_the_profile_has_it(server: Server) -> None:
    settings = {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": None,
        "tool_choice": "auto",
        "extra_body": {"thinking": {"type": "disabled"}},
    }
    profile = Profile(
        "p",
        max_tokens_param="max_completion_tokens",
        drops=frozenset({"top_p"}),
        defaults={"temperature": 1.0, "stop": ["END"]},
    )
    await ask(server, say("x"), request=asking(settings=settings), profile=profile)
    sent = server.seen[0].body
    for name in ("model", "messages", "stream", "stream_options"):
        del sent[name]
    assert sent == {
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "stop": ["END"],
        "thinking": {"type": "disabled"},
    }


@pytest.mark.parametrize(
    "settings",
    [{"messages": []}, {"extra_body": {"model": "x"}}, {"top_k": float("nan")}, {"x": object()}],
)
async def test_settings_that_cannot_be_sent(server: Server, settings: dict[str, Any]) -> None:
    with pytest.raises(BadModelRequest):
        await ask(server, say("x"), request=asking(settings=settings))
    assert server.seen == []


async def test_lone_surrogates_do_not_break_a_request(server: Server) -> None:
    await ask(server, say("x"), request=asking("a\ud800b \U0001f600 é"))
    assert server.seen[0].body["messages"][0]["content"] == "a\ufffdb \U0001f600 é"


# ---- keys ------------------------------------------------------------------------------------


async def test_the_key_is_in_no_error_log_or_repr(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"Incorrect API key provided: {KEY}, or Bearer {KEY}"
    replies = [
        Reply(error(echo), 401),
        Reply(error(echo, type=KEY), 500),
        Reply(events({"error": {"message": echo}})),
        Reply(events(chunk({"refusal": echo}, finish="stop"))),
    ]
    for reply in replies:
        with pytest.raises(ModelError) as caught:
            await ask(server, reply)
        assert KEY not in str(caught.value)
        assert KEY.upper() not in str(caught.value).upper()
        assert KEY not in repr(vars(caught.value))
        assert caught.value.__context__ is None
    model = OpenAIModel("m", api_key=KEY, base_url=server.url, environ={})
    assert repr(model) == (
        f"OpenAIModel('m', at='127.0.0.1:{server.server_port}', profile='generic')"
    )
    assert KEY not in repr(vars(model))
    assert KEY not in caplog.text
    assert len(server.seen) == len(replies)


@pytest.mark.parametrize(
    ("environ", "base", "wanted"),
    [
        ({"OPENAI_API_KEY": KEY}, "OPENAI_BASE_URL", KEY),
        ({"MOONSHOT_API_KEY": KEY}, "OPENAI_BASE_URL", "no-key"),
        ({"MOONSHOT_API_KEY": KEY}, "MOONSHOT_BASE_URL", KEY),
        ({"KIMI_API_KEY": KEY}, "KIMI_BASE_URL", KEY),
        ({"OPENAI_API_KEY": KEY}, "FLOWKIT_BASE_URL", "no-key"),
        ({"MOONSHOT_API_KEY": KEY}, "FLOWKIT_BASE_URL", "no-key"),
        ({"OPENAI_API_KEY": "other", "FLOWKIT_API_KEY": KEY}, "FLOWKIT_BASE_URL", KEY),
        ({}, "OPENAI_BASE_URL", "no-key"),
    ],
)
async def test_a_key_is_sent_only_where_it_belongs(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    base: str,
    wanted: str,
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "sk-of-the-process")
    server.replies = [Reply(say("x"))]
    async with OpenAIModel.from_env({**environ, base: server.url}) as model:
        await model.respond(asking())
    assert [seen.key for seen in server.seen] == [wanted]


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "FLOWKIT_BASE_URL"])
async def test_what_the_sdk_reads_by_itself_stays_with_openai(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: g-1\nauthorization: Bearer stolen")
    server.replies = [Reply(say("x"))]
    environ = {"FLOWKIT_API_KEY": KEY, variable: server.url}
    async with OpenAIModel.from_env(environ) as model:
        await model.respond(asking())
    headers = server.seen[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    ambient = [headers.get(n) for n in ("openai-organization", "openai-project", "x-gateway")]
    assert ambient == (["org-1", "proj-1", "g-1"] if variable.startswith("OPENAI") else [None] * 3)


@both_backends
async def test_a_redirect_to_another_server_does_not_carry_the_key(server: Server) -> None:
    with serving() as other:
        other.replies = [Reply(say("x"))]
        await ask(server, Reply(status=307, headers={"Location": f"{other.url}/elsewhere"}))
        assert [seen.key for seen in server.seen] == [KEY]
        assert [seen.key for seen in other.seen] == [""]


async def test_a_missing_key_is_explained(server: Server) -> None:
    with pytest.raises(ModelAuthError, match=r"No key was sent.*FLOWKIT_API_KEY"):
        await ask(server, Reply(status=401), api_key=None)
    with pytest.raises(ModelAuthError, match="Check the key from api_key="):
        await ask(server, Reply(status=401))


# ---- time, loops, clients --------------------------------------------------------------------


@both_backends
async def test_silence_inside_an_answer_is_an_error(server: Server) -> None:
    silent = Reply(events(chunk({"content": "x"}), done=False), hang=True)
    with pytest.raises(ModelUnavailable, match="Timeout"):
        await ask(server, silent, profile=Profile("p", idle_timeout_s=0.2))


@both_backends
@pytest.mark.parametrize("left_s", [0.3, -1.0])
async def test_the_deadline_bounds_the_whole(server: Server, left_s: float) -> None:
    request = asking(deadline=time.time() + left_s)
    silent = Reply(events(chunk({"content": "x"}), done=False), hang=True)
    with pytest.raises(ModelUnavailable, match="deadline"):
        await ask(server, silent, request=request)
    assert len(server.seen) == (1 if left_s > 0 else 0)


@both_backends
async def test_an_answer_does_not_wait_for_the_connection_to_end(server: Server) -> None:
    with anyio.fail_after(5):
        answer = await ask(server, Reply(say("x"), hang=True))
    assert answer.message.content == "x"


@both_backends
@pytest.mark.parametrize("raised", [ValueError("mine"), TimeoutError("mine")])
async def test_an_error_of_who_listens_is_its_own(server: Server, raised: Exception) -> None:
    async def on_delta(_: Delta) -> None:
        raise raised

    with pytest.raises(type(raised), match="mine"):
        await ask(server, say("x", "y"), on_delta=on_delta)


@both_backends
async def test_cancelling_is_not_swallowed(server: Server) -> None:
    silent = Reply(events(chunk({"content": "x"}), done=False), hang=True)
    with anyio.move_on_after(0.3) as scope:
        await ask(server, silent)
    assert scope.cancelled_caught


@both_backends
async def test_many_at_once(server: Server) -> None:
    server.replies = [Reply(say("x"))]
    async with (
        OpenAIModel("m", base_url=server.url, environ={}) as model,
        anyio.create_task_group() as group,
    ):
        for _ in range(8):
            group.start_soon(model.respond, asking())
    assert len(server.seen) == 8


@both_backends
async def test_a_client_of_the_user_is_used_and_left_open(server: Server) -> None:
    base = import_module("openai").DefaultAsyncHttpxClient.__mro__[1]
    http: Any = import_module(base.__module__)  # httpx or httpx2, as the SDK has it
    async with http.AsyncClient(headers={"X-Mine": "yes"}) as client:
        await ask(server, say("x"), http_client=client)
        assert server.seen[0].headers["x-mine"] == "yes"
        assert not client.is_closed


@both_backends
def test_one_model_in_two_event_loops(server: Server, anyio_backend: str) -> None:
    server.replies = [Reply(say("x"))]
    model = OpenAIModel("m", base_url=server.url, environ={})

    async def once() -> None:
        async with model:
            await model.respond(asking())

    for _ in range(2):
        anyio.run(once, backend=anyio_backend)
    assert len(server.seen) == 2


# ---- embeddings ------------------------------------------------------------------------------


async def embed(server: Server, *replies: Reply, texts: Sequence[str] = ("a", "b")) -> Any:
    server.replies = list(replies)
    async with OpenAIModel("m", api_key=KEY, base_url=server.url, environ={}) as model:
        return await model.embed(texts)


def vectors(*given: tuple[int, list[float]], **headers: str) -> Reply:
    data = [{"object": "embedding", "index": at, "embedding": each} for at, each in given]
    body = json.dumps({"object": "list", "data": data, "model": "m"}).encode()
    return Reply(body, headers={"Content-Type": "application/json", **headers})


@both_backends
async def test_texts_become_vectors_in_their_order(server: Server) -> None:
    assert await embed(server, vectors((1, [0.5, 1]), (0, [1, 0]))) == [[1, 0], [0.5, 1]]
    (seen,) = server.seen
    assert (seen.path, seen.key) == ("/v1/embeddings", KEY)
    assert seen.body == {"model": "m", "input": ["a", "b"], "encoding_format": "float"}


@pytest.mark.parametrize(
    "reply",
    [
        vectors((0, [1.0])),
        vectors(),
        Reply(b"[]", headers={"Content-Type": "application/json"}),
        Reply(b'{"data": [{"index": "x"}, 1]}', headers={"Content-Type": "application/json"}),
        Reply(b"<html>", headers={"Content-Type": "text/html"}),
    ],
)
async def test_what_is_no_list_of_vectors_is_an_error_that_says_so(
    server: Server, reply: Reply
) -> None:
    with pytest.raises(ModelUnavailable, match="vectors came from"):
        await embed(server, reply)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, ModelAuthError), (404, ModelNotFound), (429, RateLimited)]
)
async def test_embeddings_fail_as_answers_do(
    server: Server, status: int, kind: type[ModelError]
) -> None:
    with pytest.raises(kind):
        await embed(
            server,
            Reply(error("no"), status=status, headers={"Content-Type": "application/json"}),
        )
