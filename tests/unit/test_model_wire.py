"""What is sent: messages, tools and settings as each profile has them, each message encoded once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.chat import ChatMessage, Media, ModelRequest, ToolCall
from flowkit.errors import BadModelRequest
from flowkit.model import Profile, transcript
from flowkit.model.transcript import Transcripts
from flowkit.model.wire import Wire

TOOL: dict[str, Any] = {"name": "search", "parameters": {"type": "object", "properties": {}}}


def sent(request: ModelRequest, profile: Profile | str = "generic") -> dict[str, Any]:
    profile = Profile.named(profile) if isinstance(profile, str) else profile
    body: dict[str, Any] = json.loads(Wire("m", profile).body(request, None))
    return body


def sent_messages(*messages: ChatMessage, profile: Profile | str = "generic") -> list[Any]:
    made: list[Any] = sent(ModelRequest(messages), profile)["messages"]
    return made


# ---- messages --------------------------------------------------------------------------------

USER = ChatMessage("user", content="hi")
CALLING = ChatMessage("assistant", content="", tool_calls=[ToolCall("a", "search", "{}")])
RESULT = ChatMessage("tool", content="page", tool_call_id="a")
DETAILS = [{"type": "reasoning.encrypted", "data": "x", "signature": None, "index": 0}]

# a profile, how the reasoning was read, and what is sent back of it (None: no such field)
BACK: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("kimi-k2-thinking", {"reasoning": "r"}, {"reasoning_content": "r"}),
    ("kimi-k2.6", {"reasoning": "r"}, {"reasoning_content": "r"}),
    ("kimi-k3", {"reasoning": "r"}, {"reasoning_content": "r"}),
    ("kimi-k2-thinking", {"reasoning": ""}, {"reasoning_content": ""}),
    ("kimi-k2-thinking", {}, {}),
    ("kimi-k3", {}, {"reasoning_content": ""}),
    ("openai", {"reasoning": "r", "reasoning_details": DETAILS}, {}),
    ("deepseek", {"reasoning": "r"}, {"reasoning_content": "r"}),
    ("deepseek", {}, {"reasoning_content": ""}),
    ("vllm", {"reasoning": "r"}, {"reasoning": "r", "reasoning_content": "r"}),
    ("ollama", {"reasoning": "r"}, {"reasoning": "r"}),
    ("llama.cpp", {"reasoning": "r"}, {"reasoning_content": "r"}),
    ("openrouter", {"reasoning": "r"}, {"reasoning": "r"}),
    (
        "openrouter",
        {"reasoning": "r", "reasoning_details": DETAILS},
        {"reasoning_details": DETAILS},
    ),
    ("generic", {"reasoning": "r"}, {}),
    ("generic", {"reasoning": "r", "extra": {"_reasoning_field": "reasoning"}}, {"reasoning": "r"}),
    ("generic", {"reasoning": "", "extra": {"_reasoning_field": "reasoning"}}, {"reasoning": ""}),
]


@pytest.mark.parametrize(("profile", "read", "back"), BACK)
def test_how_reasoning_goes_back(profile: str, read: dict[str, Any], back: dict[str, Any]) -> None:
    message = ChatMessage("assistant", content="x", **read)
    assert sent_messages(message, profile=profile) == [
        {"role": "assistant", "content": "x", **back}
    ]


def test_an_empty_text_beside_calls_is_null() -> None:
    _, calling, _ = sent_messages(USER, CALLING, RESULT)
    assert calling["content"] is None


def test_pictures_and_files_are_parts() -> None:
    image = Media.of(b"\x89", "image/png")
    paper = Media("file", "https://example.org/a.pdf", "a.pdf")
    both, alone = sent_messages(
        ChatMessage("user", content="look", media=[image, paper]),
        ChatMessage("user", media=[image]),
    )
    assert both["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iQ=="}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "https://example.org/a.pdf"}},
    ]
    assert [part["type"] for part in alone["content"]] == ["image_url"], "no empty text part"
    with pytest.raises(BadModelRequest, match=r"Media\.of"):
        sent_messages(ChatMessage("user", media=[Media("image", "/etc/passwd")]))


BROKEN: list[tuple[list[ChatMessage], str]] = [
    ([USER, CALLING], r"'a' are not answered before message 2"),
    ([USER, CALLING, USER], r"'a' are not answered before message 2"),
    ([USER, RESULT], r"Message 1 answers the tool call 'a', which is not open"),
    ([CALLING, RESULT, RESULT], r"Message 2 answers"),
    ([ChatMessage("assistant", tool_calls=[ToolCall("a", "x", "{}")] * 2)], "same id"),
]


@pytest.mark.parametrize(("messages", "text"), BROKEN)
def test_every_call_has_one_answer(messages: list[ChatMessage], text: str) -> None:
    with pytest.raises(BadModelRequest, match=text):
        sent_messages(*messages)


def test_ids_are_rewritten_as_k2_was_trained_on_them() -> None:
    first, other = ToolCall("call_x", "search", "{}"), ToolCall("call_y", "read.page", "{}")
    history = [
        ChatMessage("assistant", tool_calls=[first, other]),
        ChatMessage("tool", content="2", tool_call_id="call_y"),
        ChatMessage("tool", content="1", tool_call_id="call_x"),
        # servers give the same ids again, and some give the right ones
        ChatMessage(
            "assistant", tool_calls=[first, ToolCall("functions.search:3", "search", "{}")]
        ),
        ChatMessage("tool", content="3", tool_call_id="call_x"),
        ChatMessage("tool", content="4", tool_call_id="functions.search:3"),
    ]
    profile = Profile.named("vllm", model="moonshotai/Kimi-K2-Thinking")
    messages = sent_messages(*history, profile=profile)
    ids = [
        "functions.search:0",
        "functions.read.page:1",
        "functions.search:2",
        "functions.search:3",
    ]
    assert [call["id"] for m in messages for call in m.get("tool_calls", ())] == ids
    answered = [ids[1], ids[0], ids[2], ids[3]]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == answered
    untouched = sent_messages(*history, profile="kimi-k2-thinking")
    assert untouched[0]["tool_calls"][0]["id"] == "call_x"


# ---- settings and tools ----------------------------------------------------------------------

WISHES = {
    "temperature": 0.5,
    "top_p": 0.9,
    "reasoning_effort": "low",
    "thinking": {"type": "enabled"},
    "prompt_cache_key": "run",
    "max_completion_tokens": 9,
    "tool_choice": "required",
}
# a profile, and what it sends of these wishes, with what name for the limit
SENT: list[tuple[str, str, set[str]]] = [
    ("kimi-k2-thinking", "max_tokens", {"temperature", "top_p", "prompt_cache_key"}),
    ("kimi-k2.6", "max_tokens", {"thinking", "prompt_cache_key"}),
    (
        "kimi-k3",
        "max_completion_tokens",
        {"reasoning_effort", "prompt_cache_key", "tool_choice"},
    ),
    ("openai", "max_completion_tokens", WISHES.keys() - {"max_completion_tokens"}),
    ("deepseek", "max_tokens", {"temperature", "top_p", "reasoning_effort", "thinking"}),
    ("ollama", "max_tokens", {"temperature", "top_p", "reasoning_effort", "thinking"}),
    (
        "generic",
        "max_tokens",
        {"temperature", "top_p", "reasoning_effort", "thinking", "tool_choice"},
    ),
]


@pytest.mark.parametrize(("profile", "limit", "names"), SENT)
def test_what_a_profile_sends(profile: str, limit: str, names: set[str]) -> None:
    body = sent(ModelRequest([USER], tools=[TOOL], settings=WISHES), profile)
    ours = {"model", "messages", "stream", "stream_options", "tools"}
    assert body.keys() - ours == {limit, *names}
    assert body[limit] == 9


def test_what_profiles_say_by_themselves() -> None:
    body = sent(ModelRequest([USER]), "kimi-k2-thinking")
    assert (body["max_tokens"], body["temperature"]) == (32_768, 1.0)
    assert sent(ModelRequest([USER]), "kimi-k3")["max_completion_tokens"] == 32_768
    on_own = sent(ModelRequest([USER]), Profile.named("vllm", model="Kimi-K2-Thinking"))
    assert "max_tokens" not in on_own, "a server of one's own limits an answer by its window"
    assert "max_tokens" not in sent(ModelRequest([USER]), "generic")
    whole = sent(ModelRequest([USER]), Profile("whole", stream=False))
    assert whole == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}


def test_a_mode_that_a_model_ignores_is_kept_another_way() -> None:
    """Ollama takes tool_choice and does not obey: for `none` it gets no tools."""
    body = sent(ModelRequest([USER], tools=[TOOL], settings={"tool_choice": "none"}), "ollama")
    assert not {"tools", "tool_choice"} & body.keys()


def test_what_goes_with_the_weights() -> None:
    for server in ("vllm", "openrouter", "generic"):
        profile = Profile.named(server, model="moonshotai/kimi-k2-thinking")
        assert (profile.name, profile.context_tokens) == (server, 262_144)
        assert profile.recover_tool_calls
    assert not Profile.named("vllm", model="moonshotai/Kimi-K3").recover_tool_calls
    assert not Profile.named("vllm", model="qwen").recover_tool_calls
    small = Profile.named("llama.cpp", model="kimi-k2-thinking")
    assert small.context_tokens == 32_768, "the window is what its operator gave it"


REFUSED: list[tuple[str, list[dict[str, Any]], str]] = [
    ("kimi-k3", [{"name": "go"}], r"'go' does not match \[a-zA-Z_\].*'kimi-k3'"),
    ("openai", [{"name": "a.b"}], r"'a\.b' does not match"),
    ("generic", [{"type": "function", "function": {}}], "'' does not match"),
    ("openai", [{"name": f"tool_{n}"} for n in range(129)], "129 tools, and 128"),
]


@pytest.mark.parametrize(("profile", "tools", "text"), REFUSED)
def test_tools_that_servers_refuse(profile: str, tools: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(BadModelRequest, match=text):
        sent(ModelRequest([USER], tools=tools), profile)


def test_every_part_of_a_schema_gets_a_type_where_it_must_have_one() -> None:
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {
            "any": {"title": "Any"},
            "one": {"const": 3},
            "of": {"enum": ["a", "b"]},
            "deep": {"properties": {"x": {}}},
            "many": {"items": {"minimum": 0}},
            "maybe": {"anyOf": [{"type": "null"}, {"description": "x"}]},
            "there": {"$ref": "#/$defs/There"},
        },
        "$defs": {"There": {"properties": {}}},
    }
    tools: list[dict[str, Any]] = [
        {"name": "search", "parameters": parameters},
        {"type": "builtin_function"},
    ]
    made = sent(ModelRequest([USER], tools=tools), "kimi-k2-thinking")["tools"]
    typed = made[0]["function"]["parameters"]
    assert typed == {
        "type": "object",
        "properties": {
            "any": {"type": "string", "title": "Any"},
            "one": {"type": "integer", "const": 3},
            "of": {"type": "string", "enum": ["a", "b"]},
            "deep": {"type": "object", "properties": {"x": {"type": "string"}}},
            "many": {"type": "array", "items": {"type": "number", "minimum": 0}},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "string", "description": "x"}]},
            "there": {"$ref": "#/$defs/There"},
        },
        "$defs": {"There": {"type": "object", "properties": {}}},
    }
    assert made[1] == {"type": "builtin_function"}
    assert sent(ModelRequest([USER], tools=tools))["tools"][0]["function"] == tools[0]


# ---- once ------------------------------------------------------------------------------------

TURNS = [
    (
        ChatMessage("assistant", tool_calls=[ToolCall(f"c{n}", "search", "{}")], reasoning="é"),
        ChatMessage("tool", content=f"page {n}", tool_call_id=f"c{n}"),
    )
    for n in range(6)
]
SYSTEM = ChatMessage("system", content="Be short.")


@given(
    histories=st.lists(st.lists(st.sampled_from(TURNS), max_size=5), min_size=1, max_size=8),
    with_system=st.booleans(),
    kept=st.sampled_from([0, 700, 10_000_000]),
)
def test_what_was_kept_changes_nothing(
    histories: list[list[tuple[ChatMessage, ChatMessage]]], with_system: bool, kept: int
) -> None:
    """Conversations that grow, fork, or lose turns are sent as if each were the first."""
    profile = Profile.named("vllm", model="kimi-k2-thinking")
    wire = Wire("m", profile)
    wire._transcripts = Transcripts(profile, bytes_max=kept)
    for turns in histories:
        messages = [*([SYSTEM] if with_system else []), USER, *(m for turn in turns for m in turn)]
        request = ModelRequest(messages, schema={"type": "object"})
        for way in ("response_format", "prompt"):
            assert wire.body(request, way) == Wire("m", profile).body(request, way)
        assert wire._transcripts.size <= kept


def test_each_message_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the 300th turn costs what the 30th did."""
    encoded: list[object] = []
    of_one = transcript.message_json

    def counting(message: ChatMessage, *rest: Any) -> dict[str, Any]:
        encoded.append(message)
        return of_one(message, *rest)

    monkeypatch.setattr(transcript, "message_json", counting)
    wire = Wire("m", Profile.named("kimi-k2-thinking"))
    history = [SYSTEM, USER]
    for turn in TURNS:
        history.extend(turn)
        wire.body(ModelRequest(list(history)), None)
        wire.body(ModelRequest(tuple(history)), None)  # an attempt made again
    assert encoded == history
    assert len(wire._transcripts._by_end) == 2, "this turn's and the last one's"
    assert wire._transcripts.size > 1.5 * len(wire.body(ModelRequest(history), None))
    # a turn that is taken back and made otherwise
    wire.body(ModelRequest([*history[:-2], *TURNS[0]]), None)
    assert encoded == [*history, *TURNS[0]]
