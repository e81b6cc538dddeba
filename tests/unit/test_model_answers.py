"""What comes back: any split of the bytes gives the same message, and a cut gives none."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, ToolCall, Usage
from flowkit.errors import BadModelAnswer, BadModelRequest, ModelUnavailable, RateLimited
from flowkit.model import OpenAIModel, Profile
from flowkit.model.leaks import ThinkSplitter, recovered
from flowkit.model.usage import priced, usage_of

EVENTS, JSON = "text/event-stream", "application/json"
Handler = Callable[[bytes], tuple[int, str, Sequence[bytes]]]
"""From a request's body to status, media type and the pieces of the answer."""


def model_with(handler: Handler, **options: Any) -> OpenAIModel:
    base = import_module("openai").DefaultAsyncHttpxClient.__mro__[1]
    http: Any = import_module(base.__module__)  # httpx or httpx2, as the SDK has it

    class Pieces(http.AsyncByteStream):
        def __init__(self, pieces: Sequence[bytes]) -> None:
            self.pieces = pieces

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self.pieces:
                yield piece

    def handle(request: Any) -> Any:
        status, media_type, pieces = handler(request.content)
        headers = {"content-type": media_type}
        return http.Response(status, headers=headers, stream=Pieces(pieces))

    client = http.AsyncClient(transport=http.MockTransport(handle))
    given: dict[str, Any] = {"base_url": "http://127.0.0.1:1/v1", "environ": {}, **options}
    return OpenAIModel("m", http_client=client, **given)


class Answers:
    """A model whose server gives the bytes that a test sets, for many examples of one test."""

    def __init__(self, profile: Profile | str, *names: str) -> None:
        self.tools = [{"name": name} for name in names or ("search",)]
        self.pieces: Sequence[bytes] = ()
        self.media_type = EVENTS
        self.deltas: list[Delta] = []
        self.model = model_with(lambda _: (200, self.media_type, self.pieces), profile=profile)

    async def ask(self) -> ModelAnswer:
        self.deltas.clear()
        request = ModelRequest([ChatMessage("user", content="hi")], tools=self.tools)
        return await self.model.respond(request, on_delta=self._on_delta)

    def answer(self, *pieces: bytes, media_type: str = EVENTS) -> ModelAnswer:
        self.pieces, self.media_type = pieces, media_type
        return anyio.run(self.ask)

    async def _on_delta(self, delta: Delta) -> None:
        self.deltas.append(delta)


def stream(*deltas: dict[str, Any], finish: str = "stop", **last: Any) -> bytes:
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks: list[dict[str, Any]] = [{"id": "c", "choices": [choice]} for choice in choices]
    chunks[-1].update(last)
    texts = map(json.dumps, chunks)
    return "".join(f"data: {text}\n\n" for text in (*texts, "[DONE]")).encode()


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"id": "c", "choices": [choice], **more}).encode()


# ---- properties ------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message as servers send it whole, that is an answer."""
    made: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | texts)}
    if draw(st.booleans()):
        made["reasoning_content"] = draw(texts)
    if draw(st.booleans()):
        made["reasoning_details"] = [
            {"type": f"reasoning.{kind}", "index": index, "text": draw(texts), "signature": "s"}
            for index, kind in enumerate(draw(st.lists(st.sampled_from(["text", "summary"]))))
        ]
    calls = draw(st.lists(st.sampled_from(["search", "read.page-2"]), max_size=3))
    if not (made["content"] or "").strip():
        calls = calls or ["search"]
    if calls:
        made["tool_calls"] = [
            {
                "index": index,
                "id": f"functions.{name}:{index}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps({"q": draw(texts)})},
            }
            for index, name in enumerate(calls)
        ]
    return made


def cut(draw: st.DrawFn, text: Any) -> list[Any]:
    """A text, or bytes, in pieces."""
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A message, and a stream of it: each of its texts in pieces."""
    message = draw(messages())
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if "reasoning_content" in message:
        pieces = cut(draw, message["reasoning_content"])
        deltas += [{"reasoning_content": piece} for piece in pieces]
    for detail in message.get("reasoning_details", ()):
        rest = {**detail, "signature": None}
        for text in cut(draw, detail["text"]):
            deltas.append({"reasoning_details": [{**rest, "text": text}]})
        deltas.append({"reasoning_details": [{**detail, "text": ""}]})
    deltas += [{"content": piece} for piece in cut(draw, message["content"] or "")]
    for call in message.get("tool_calls", ()):
        function = call["function"]
        begun = {**call, "function": {"name": function["name"], "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        for piece in cut(draw, function["arguments"]):
            part = {"index": call["index"], "function": {"arguments": piece}}
            deltas.append({"tool_calls": [part]})
    finish = "tool_calls" if "tool_calls" in message else "stop"
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return message, stream(*deltas, finish=finish, usage=usage)


@pytest.fixture(scope="module")
def kimi() -> Answers:
    # Names with dots are what MCP servers have; Moonshot itself refuses them.
    return Answers(
        replace(Profile.named("kimi-k2-thinking"), tool_name=r"[\w.-]+"), "search", "read.page-2"
    )


@given(data=st.data())
def test_a_stream_in_any_pieces_is_the_whole_answer(data: st.DataObject, kimi: Answers) -> None:
    message, sent = data.draw(streams())
    pieces = data.draw(st.composite(cut)(sent))
    streamed = kimi.answer(*pieces)
    deltas = list(kimi.deltas)
    finish = "tool_calls" if "tool_calls" in message else "stop"
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    assert kimi.answer(whole(message, finish, usage=usage), media_type=JSON) == streamed
    assert "".join(d.text for d in deltas) == (streamed.message.content or "")
    assert "".join(d.reasoning for d in deltas) == (streamed.message.reasoning or "")
    assert streamed.message.reasoning == message.get("reasoning_content")


def test_a_cut_anywhere_is_retryable_and_no_half_call(kimi: Answers) -> None:
    call = {"id": "a", "index": 0, "function": {"name": "search", "arguments": '{"q": 1}'}}
    deltas = [{"reasoning_content": "hm"}, {"content": "é"}, {"tool_calls": [call]}]
    sent = stream(*deltas, finish="tool_calls").rstrip()
    assert kimi.answer(sent).message.tool_calls == (ToolCall("a", "search", '{"q": 1}'),)
    message = {"content": "é", "tool_calls": [call]}

    async def cut_everywhere() -> None:
        for media_type, all_ in ((EVENTS, sent), (JSON, whole(message, "tool_calls"))):
            kimi.media_type = media_type
            for end in range(len(all_)):
                kimi.pieces = [all_[:end]]
                with pytest.raises(ModelUnavailable) as caught:
                    await kimi.ask()
                assert caught.value.retryable

    anyio.run(cut_everywhere)


def test_a_server_without_done_has_a_profile() -> None:
    sent = stream({"content": "x"}).replace(b"data: [DONE]\n\n", b"")
    with pytest.raises(ModelUnavailable, match="ends_with_done=False"):
        Answers("generic").answer(sent)
    assert Answers(Profile("odd", ends_with_done=False)).answer(sent).message.content == "x"


@given(data=st.data())
def test_thoughts_in_tags_are_told_apart_in_any_pieces(data: st.DataObject) -> None:
    text = data.draw(
        st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "thi", "\n", "x"])).map("".join)
    )
    pieces = data.draw(st.composite(cut)(text))
    splitter, alone = ThinkSplitter(), ThinkSplitter()
    deltas = [*map(splitter.feed, pieces), splitter.end()]
    once = [alone.feed(text), alone.end()]
    for part in ("text", "reasoning"):
        said = ["".join(getattr(delta, part) for delta in each) for each in (deltas, once)]
        assert said[0] == said[1]


# ---- what servers do -------------------------------------------------------------------------


def test_thoughts_in_the_content() -> None:
    answers = Answers("llama.cpp")
    message = answers.answer(
        stream({"content": "<think>\nhm</th"}, {"content": "ink>\n\nyes"})
    ).message
    assert (message.content, message.reasoning) == ("yes", "\nhm")
    assert answers.deltas == [Delta(reasoning="\nhm"), Delta("yes")]
    plain = answers.answer(stream({"content": "say <think>"})).message
    assert (plain.content, plain.reasoning) == ("say <think>", None)
    left = Answers("generic").answer(stream({"content": "<think>hm</think>yes"})).message
    assert left.content == "<think>hm</think>yes", "only where the profile says so"
    with pytest.raises(BadModelAnswer, match="but reasoning"):
        answers.answer(stream({"content": "<think>hm"}))


def test_signed_thoughts_come_back_as_they_were() -> None:
    text = {"type": "reasoning.text", "format": "f", "index": 0, "signature": None}
    secret = {"type": "reasoning.encrypted", "data": "opaque", "id": "r1", "index": 1}
    deltas = [
        {"reasoning": "a", "reasoning_details": [{**text, "text": "a"}]},
        {"reasoning": "b", "reasoning_details": [{**text, "text": "b"}, secret]},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "sig"}]},
    ]
    message = Answers("openrouter").answer(stream(*deltas, {"content": "x"})).message
    assert message.reasoning == "ab"
    assert message.reasoning_details == [{**text, "text": "ab", "signature": "sig"}, secret]
    twins = [{**text, "text": "a"}, {**text, "text": "b"}]
    sent = whole({"content": "x", "reasoning_details": twins})
    message = Answers("openrouter").answer(sent, media_type=JSON).message
    assert message.reasoning_details == twins, "two of one list are two"


BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"


def leaked(call_id: str, arguments: str, marker: str = "tool_call_argument_begin") -> str:
    return f"<|tool_call_begin|>{call_id}<|{marker}|>{arguments}<|tool_call_end|>"


SEARCH = ("search", '{"q": "<a>"}')
# the text, and what is found in it: names with arguments, and the text that is left
LEAKS: list[tuple[str, list[tuple[str, str]], str | None]] = [
    (f"So.{BEGIN}{leaked('functions.search:0', SEARCH[1])}{END}", [SEARCH], "So."),
    (
        BEGIN + leaked("functions.search:0", SEARCH[1]) + leaked("read.page-2:1", "{\n}") + END,
        [SEARCH, ("read.page-2", "{\n}")],
        None,
    ),
    # the singular marker, the report's marker, no end of the section, space around all
    (
        f"<|tool_call_section_begin|>{leaked(' search:7 ', f' {SEARCH[1]} ', 'tool_arguments_begin')}",
        [SEARCH],
        None,
    ),
    # no section at all, and no end of the call before the next
    (
        leaked("functions.search:0", SEARCH[1]).removesuffix("<|tool_call_end|>")
        + leaked("functions.read.page-2:1", "{}"),
        [SEARCH, ("read.page-2", "{}")],
        None,
    ),
    # two sections, and a bad call beside a good one: whoever enforces says what is wrong
    (
        BEGIN
        + leaked("functions.search:0", "{")
        + f"{END} and {BEGIN}"
        + leaked("functions.search:1", SEARCH[1])
        + END,
        [("search", "{"), SEARCH],
        "and",
    ),
    # not ours, with a comma too many, not an object, a number that could be either tool
    (BEGIN + leaked("functions.rm:0", '{"q": 1,}') + END, [("rm", '{"q": 1,}')], None),
    (BEGIN + leaked("functions.search:0", "[1]") + END, [("search", "[1]")], None),
    (BEGIN + leaked("0", "{}") + END, [("0", "{}")], None),
    # cut in its arguments, before them, and without their marker
    (
        f"{BEGIN}<|tool_call_begin|>functions.search:0<|tool_call_argument_begin|>{{",
        [("search", "{")],
        None,
    ),
    (f"{BEGIN}<|tool_call_begin|>functions.search:0", [("search", "{}")], None),
    (f"<|tool_call_begin|>search:0 {SEARCH[1]}<|tool_call_end|>", [SEARCH], None),
    # nothing but markers
    (BEGIN + END, [], None),
    (f"{BEGIN}<|tool_call_begin|> <|tool_call_end|>", [], None),
]


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
@pytest.mark.parametrize(("text", "calls", "rest"), LEAKS)
def test_calls_left_in_the_text_are_recovered(
    kimi: Answers, field: str, text: str, calls: list[tuple[str, str]], rest: str | None
) -> None:
    half = len(text) // 2  # inside a marker, as often as not
    sent = stream({field: text[:half]}, {field: text[half:]}, finish="tool_calls")
    if not calls:
        with pytest.raises(BadModelAnswer, match="has no calls"):
            kimi.answer(sent)
        return
    answer = kimi.answer(sent)
    message = answer.message
    assert [(call.name, call.arguments) for call in message.tool_calls] == calls
    assert len({call.id for call in message.tool_calls}) == len(calls)
    assert answer.finish_reason == "tool_calls"
    place = "content" if field == "content" else "reasoning"
    assert message.extra["_recovered_from"] == place
    left = message.content if field == "content" else (message.reasoning or "").strip() or None
    assert left == rest


def test_a_bare_counter_is_the_only_tool_there_is() -> None:
    said = ChatMessage("assistant", BEGIN + leaked("0", "{}") + END)
    for names, name in ((["search"], "search"), (["search", "read"], "0"), ([], "0")):
        assert [call.name for call in recovered(said, names).tool_calls] == [name]


def test_markers_without_a_call_are_no_text() -> None:
    said = recovered(
        ChatMessage("assistant", f"So be it.{BEGIN}{END}", reasoning=BEGIN), ["search"]
    )
    assert said == ChatMessage("assistant", "So be it.", reasoning="")
    plain = ChatMessage("assistant", "So <|be|> it.", reasoning="hm")
    assert recovered(plain, ["search"]) is plain


def test_many_leaked_calls_of_one_id_are_told_apart_in_linear_time() -> None:
    text = leaked("functions.search:0", "{}") * 20_000
    begun = time.perf_counter()
    calls = recovered(ChatMessage("assistant", text), ["search"]).tool_calls
    assert time.perf_counter() - begun < 5  # with the square of their number it was minutes
    assert len({call.id for call in calls}) == 20_000
    assert max(len(call.id) for call in calls) < 30


def test_calls_are_recovered_only_where_they_may_be(kimi: Answers) -> None:
    text = BEGIN + leaked("functions.search:0", "{}") + END
    real = {"index": 0, "id": "a", "function": {"name": "search", "arguments": "{}"}}
    beside = kimi.answer(stream({"content": text}, {"tool_calls": [real]})).message
    assert (beside.content, [call.id for call in beside.tool_calls]) == (text, ["a"])
    assert Answers("generic").answer(stream({"content": text})).message.content == text
    with pytest.raises(BadModelAnswer, match="token limit") as caught:
        kimi.answer(stream({"content": text}, finish="length"))
    assert not caught.value.answer.message.tool_calls


# ---- usage -----------------------------------------------------------------------------------

USAGES: list[tuple[dict[str, Any], Usage]] = [
    ({"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 3}, Usage(9, 4, 3)),
    (
        {
            "prompt_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens": 4,
            "completion_tokens_details": {"reasoning_tokens": 2},
            "cost": 0.25,
        },
        Usage(9, 4, 3, 2, 0.25),
    ),
    ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 3}, Usage(9, 0, 3)),
    ({"prompt_tokens": None, "prompt_tokens_details": None, "cost": "free"}, Usage()),
    ({"prompt_tokens": -1, "completion_tokens": "4", "cost": float("nan")}, Usage()),
]


@pytest.mark.parametrize(("said", "usage"), USAGES)
def test_usage_in_all_its_shapes(said: dict[str, Any], usage: Usage) -> None:
    assert usage_of(said, Usage()) == usage


def test_usage_in_all_its_places(kimi: Answers) -> None:
    said = {"prompt_tokens": 9, "completion_tokens": 4}
    at_end: dict[str, Any] = {"id": "c", "choices": [], "usage": {**said, "cached_tokens": 3}}
    tail = f"data: {json.dumps(at_end)}\n\ndata: [DONE]\n\n".encode()
    text = stream({"content": "x"}, usage=said).replace(b"data: [DONE]\n\n", tail)
    assert kimi.answer(text).usage == Usage(9, 4, 3)
    assert kimi.answer(stream({"content": "x"}, x_groq={"usage": said})).usage == Usage(9, 4)


def test_what_an_answer_cost() -> None:
    prices = pytest.importorskip("genai_prices")
    used = Usage(1_000_000, 1_000_000, cached_tokens=500_000)
    at = "https://api.moonshot.ai/v1"
    known = priced(used, prices, at, "served-as", "kimi-k2-thinking").cost_usd
    assert known is not None
    assert 1 < known < 20
    uncached = priced(replace(used, cached_tokens=0), prices, at, "kimi-k2-thinking").cost_usd
    assert uncached is not None
    assert known < uncached
    assert priced(used, prices, at, "never-heard-of").cost_usd is None
    assert priced(used, prices, "http://localhost:8000/v1", "kimi-k2-thinking").cost_usd is None
    assert priced(used, None, at, "kimi-k2-thinking").cost_usd is None
    said = Usage(1, 1, cost_usd=0.5)
    assert priced(said, prices, at, "kimi-k2-thinking") == said


# ---- asked again -----------------------------------------------------------------------------


async def test_a_server_that_wants_reasoning_gets_an_empty_one() -> None:
    seen: list[Any] = []

    def handle(body: bytes) -> tuple[int, str, Sequence[bytes]]:
        seen.append(json.loads(body)["messages"][1])
        if "reasoning_content" in seen[-1]:
            return 200, EVENTS, [stream({"content": "x"})]
        message = "thinking is enabled but reasoning_content is missing in message 1"
        return 400, JSON, [json.dumps({"error": {"message": message}}).encode()]

    model = model_with(handle, profile="kimi-k2.6")
    history = [ChatMessage(role, content="x") for role in ("user", "assistant", "user")]
    for _ in range(2):
        await model.respond(ModelRequest(history))
    assert [said.get("reasoning_content") for said in seen] == [None, "", ""], (
        "and it is remembered"
    )
    seen.clear()
    refusing = model_with(lambda body: handle(body.replace(b"reasoning_content", b"x")))
    with pytest.raises(BadModelRequest, match="reasoning_content is missing"):
        await refusing.respond(ModelRequest(history))
    assert len(seen) == 2


async def test_fewer_run_side_by_side_after_a_refusal() -> None:
    said = json.dumps({"error": {"type": "rate_limit_reached_error", "message": "slow"}}).encode()
    model = model_with(lambda _: (429, JSON, [said]), concurrency=6, tokens_per_minute=10**6)
    with pytest.raises(RateLimited):
        await model.respond(ModelRequest([ChatMessage("user", content="hi")]))
    assert (await model._loop()).limiter.concurrency == 3


def test_the_window_is_a_property() -> None:
    assert Answers("kimi-k3").model.context_tokens == 262_144
    for bad in ({"concurrency": 0}, {"tokens_per_minute": 0}):
        with pytest.raises(ValueError, match="1 or more"):
            OpenAIModel("m", base_url="http://127.0.0.1:1", environ={}, **bad)  # type: ignore[arg-type]
