"""What Kimi and OpenAI refuse in the messages of a request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from flowkit.chat import ChatMessage, ModelRequest
from flowkit.testing.rules import Json, Rules, Violation, as_object
from flowkit.testing.script import tokens_of
from flowkit.testing.wire import text_of

_END: Final[Json] = MappingProxyType({"role": "user"})
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})


def check_shape(body: object) -> Iterator[Violation]:
    """What keeps the body from being read at all."""
    if not isinstance(body, Mapping):
        yield Violation("shape", "the body is not a JSON object")
        return
    body = cast("Json", body)
    if not isinstance(body.get("model"), str):
        yield Violation("shape", "model is missing")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield Violation("shape", "messages must be a list with at least one message")
        return
    for position, message in enumerate(cast("list[object]", messages)):
        if problem := _misshapen(message):
            yield Violation("shape", f"messages[{position}]: {problem}")
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        yield Violation("shape", "tools must be a list")
    elif not all(isinstance(tool, Mapping) for tool in cast("list[object]", tools or [])):
        yield Violation("shape", "a tool must be an object")
    elif tools == []:
        yield Violation("shape", "tools is an empty list: leave it out")


def _misshapen(message: object) -> str:
    if not isinstance(message, Mapping):
        return "a message must be an object"
    message = cast("Json", message)
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        return f"there is no role {role!r}"
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) for part in cast("list[object]", content)):
            return "a content part must be an object"
    elif not isinstance(content, str) and not (content is None and role == "assistant"):
        return "content must be a text or a list of parts"
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        return "tool_call_id is missing"
    for call in message.get("tool_calls") or ():
        function = as_object(as_object(call).get("function"))
        texts = (as_object(call).get("id"), function.get("name"), function.get("arguments"))
        if not all(isinstance(text, str) for text in texts) or not (texts[0] and texts[1]):
            return "a tool call needs id, function.name and function.arguments, as texts"
    return ""


@dataclass(frozen=True, slots=True)
class _Given:
    """What of a message must come back as it was, beside what it is known by."""

    ids: tuple[str, ...]
    arguments: tuple[str, ...]
    reasoning: str | None


class Memory:
    """The assistant messages that a server gave, known by what they say."""

    def __init__(self) -> None:
        self._given: dict[object, set[_Given]] = {}
        self._exact: set[object] = set()
        self._mended: set[object] = set()

    def add(self, message: ChatMessage, *, mended: bool = False) -> None:
        """Keep a message. `mended`: it was given broken, and may come back as the client has it."""
        said = (
            tuple(call.id for call in message.tool_calls),
            tuple(call.arguments for call in message.tool_calls),
        )
        names = [call.name for call in message.tool_calls]
        key = _key(message.content, names, said[1])
        given = _Given(*said, message.reasoning)
        self._given.setdefault(key, set()).add(given)
        self._exact.add((message.content or "", tuple(names), given))
        if mended:
            self._mended.add(key)

    def check(self, message: Json, position: int, *, reasoning: bool) -> Iterator[Violation]:
        """What of an assistant message is missing or altered."""
        wanted: list[Json] = message.get("tool_calls") or []
        back = _Given(
            tuple(call["id"] for call in wanted),
            tuple(call["function"]["arguments"] for call in wanted),
            message.get("reasoning_content"),
        )
        names = [call["function"]["name"] for call in wanted]
        if (text_of(message.get("content")) or "", tuple(names), back) in self._exact:
            return
        key = _key(message.get("content"), names, back.arguments)
        given = self._given.get(key, set()) if key not in self._mended else set[_Given]()
        if reasoning and back.reasoning is None:
            # Nothing is missing where nothing was given: another model's message, without calls.
            if wanted or any(each.reasoning is not None for each in given):
                yield Violation(
                    "reasoning_missing",
                    "thinking is enabled but reasoning_content is missing in assistant "
                    f"{'tool call ' if wanted else ''}message at index {position}",
                )
        elif reasoning and given and all(each.reasoning != back.reasoning for each in given):
            text = f"reasoning_content of the message at index {position} is not as it was given"
            yield Violation("reasoning_altered", text)
        if given and all(each.ids != back.ids for each in given):
            text = f"the tool call ids of the message at index {position} are not as given"
            yield Violation("ids_altered", text)
        if given and all(each.arguments != back.arguments for each in given):
            text = f"the arguments of the message at index {position} are not as given"
            yield Violation("arguments_altered", text)


def _key(content: object, names: Sequence[str], arguments: Sequence[str]) -> object:
    return (text_of(content) or "", tuple(names), tuple(map(_canonical, arguments)))


def _canonical(arguments: str) -> str:
    """The same for arguments that mean the same."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments


def check_messages(body: Json, rules: Rules, memory: Memory) -> Iterator[Violation]:
    """What is wrong with the messages, one by one and in their order."""
    messages: list[Json] = body["messages"]
    wanted = rules.reasoning_wanted(body)
    users = [at for at, message in enumerate(messages) if message["role"] == "user"]
    loop = users[-1] if users else -1
    for position, message in enumerate(messages):
        yield from _check_message(message, position, rules)
        if message["role"] == "assistant" and not message.get("partial"):
            needed = wanted == "all" or (wanted == "loop" and position > loop)
            yield from memory.check(message, position, reasoning=needed)
    yield from _check_calls(messages)
    last = messages[-1]
    ours = last["role"] == "assistant" and not (last.get("partial") or last.get("tool_calls"))
    if rules.kimi and ours:
        text = "the last message is the assistant's: nothing to answer (prefill has partial: true)"
        yield Violation("order", text)


def _check_message(message: Json, position: int, rules: Rules) -> Iterator[Violation]:
    role, content = message["role"], message.get("content")
    if isinstance(content, list):
        parts = cast("list[Json]", content)
        if not parts or any(p.get("type") == "text" and not p.get("text") for p in parts):
            yield Violation("empty_text", "Invalid request: text content is empty")
    elif rules.kimi and not (content or message.get("tool_calls") or role in ("system", "tool")):
        text = f"the message at position {position} with role '{role}' must not be empty"
        yield Violation("empty_message", f"Invalid request: {text}")
    if rules.fields is not None:
        for name in message.keys() - rules.fields:
            yield Violation("field", f"Unknown parameter: 'messages[{position}].{name}'.")


def _check_calls(messages: Sequence[Json]) -> Iterator[Violation]:
    """Every call is answered once, before anybody else speaks."""
    waiting: dict[str, bool] = {}
    for message in (*messages, _END):
        if message["role"] == "tool":
            call_id: Any = message["tool_call_id"]
            if call_id not in waiting:
                yield Violation(
                    "call_unknown", f"Invalid request: tool_call_id {call_id} not found"
                )
            elif waiting[call_id]:
                text = f"Invalid request: tool_call_id {call_id} is answered twice"
                yield Violation("call_answered_twice", text)
            waiting[call_id] = True
            continue
        if left := [call_id for call_id, answered in waiting.items() if not answered]:
            yield Violation(
                "call_unanswered",
                "an assistant message with 'tool_calls' must be followed by tool messages "
                "responding to each 'tool_call_id'. The following tool_call_ids did not have "
                f"response messages: {', '.join(left)}",
            )
        wanted = [call["id"] for call in message.get("tool_calls") or ()]
        waiting = dict.fromkeys(wanted, False)
        if len(waiting) < len(wanted):
            yield Violation("ids_repeated", "Invalid request: tool call ids are not unique")


def check_length(request: ModelRequest, rules: Rules) -> Iterator[Violation]:
    """Whether the request fits into the window."""
    tokens = tokens_of(request)
    if tokens > rules.context_tokens:
        yield Violation(
            "context",
            "Invalid request: Your request exceeded model token limit : "
            f"{rules.context_tokens} (requested: {tokens})",
        )
