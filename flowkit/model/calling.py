"""Calls of tools by a JSON schema: one answer is one call, or the reply, and nothing else can be written.

For models whose server reads no calls, or that write them badly. The request with tools becomes one
with a schema, in which calls and results of earlier turns stand as text; the answer becomes a call
again. So who asked knows nothing of it:

    {"tool": "search", "arguments": {"query": "tides"}}   or   {"reply": "It is the moon."}
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, OnDelta, ToolCall
from flowkit.errors import BadModelAnswer
from flowkit.model.leaks import RECOVERED_FROM
from flowkit.model.toolset import functions

SCHEMA_NAME: Final = "call_or_reply"

ANSWER_TOKENS: Final = 1000
"""What an answer is taken to be limited to, where nobody says."""

_ENDS: Final = frozenset({"answer", "plan"})
"""A planner's own tools: where one is offered, a reply as text is no answer."""

_LITERAL: Final = ("enum", "const", "pattern", "format", "maxLength")
_INTEGER_MAX: Final = 2**53 - 1
_TOOL: Final = "tool"
_REPLY: Final = "reply"

_BLOCKS: Final = re.compile(
    r"<tool_call>\s*(.+?)\s*(?:</tool_call>|\Z)|^[ \t]*```(?:json)?[ \t]*\n(.+?)^[ \t]*```",
    re.DOTALL | re.MULTILINE,
)


Ask = Callable[[ModelRequest, OnDelta | None], Awaitable[ModelAnswer]]


async def by_schema(
    ask: Ask, request: ModelRequest, on_delta: OnDelta | None, *, tokens_max: int = 0
) -> ModelAnswer:
    """Ask with tools as a schema. The text of a reply comes in one piece, when it is known to be one."""
    hidden = bool(_choices(request)[0])
    asked = constrained(request, tokens_max=tokens_max)
    answer = understood(await ask(asked, None if hidden else on_delta), request)
    if hidden and on_delta is not None and answer.message.content:
        await on_delta(Delta(answer.message.content))
    return answer


def constrained(request: ModelRequest, *, tokens_max: int = 0) -> ModelRequest:
    """The same request without tools: its schema is "call one of them, or reply".

    `tokens_max`: the most tokens that an answer may have, 0 for what is usual; every text in the answer is bounded by two
    characters for each, so that the answer ends before they do. A request with neither tools nor a
    schema asks for text, and only its earlier calls are written out.
    """
    limit = tokens_max or ANSWER_TOKENS
    settings = {name: value for name, value in request.settings.items() if name != "tool_choice"}
    tools, reply = _choices(request)
    told, schema, name = "", request.schema, request.schema_name
    if tools:
        told, name = _told(tools, reply), SCHEMA_NAME
        schema = _schema(tools, reply, request.schema)
    elif schema is not None:
        text = json.dumps(schema, ensure_ascii=False)
        told = f"Answer with one JSON value that fits this JSON schema:\n{text}"
    return replace(
        request,
        messages=tuple(_messages(request.messages, told)),
        tools=(),
        schema=bounded(schema, limit) if schema is not None else None,
        schema_name=name,
        settings=settings,
    )


def understood(answer: ModelAnswer, request: ModelRequest) -> ModelAnswer:
    """The answer to a constrained request as the answer to the request itself.

    Raises `BadModelAnswer` for what is neither a call nor a reply, which only a server lets through
    that does not keep to the schema.
    """
    tools, _ = _choices(request)
    if not tools or answer.message.tool_calls:
        return answer
    try:
        data: object = json.loads(answer.message.content or "")
    except ValueError:
        data = None
    given = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    arguments = given.get("arguments")
    if given.get(_TOOL) in {str(tool["name"]) for tool in tools} and isinstance(arguments, dict):
        id = f"call_{sum(len(message.tool_calls) for message in request.messages) + 1}"
        call = ToolCall(id, given[_TOOL], json.dumps(arguments, ensure_ascii=False))
        message = replace(answer.message, content=None, tool_calls=(call,))
        return replace(answer, message=message, finish_reason="tool_calls")
    if _REPLY in given:
        said = given[_REPLY]
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        return replace(answer, message=replace(answer.message, content=text))
    raise BadModelAnswer(
        f"The answer of {answer.model} is neither a call nor a reply, though a schema asked for one: "
        f"{(answer.message.content or '')[:200]!r}. Try again; if it is always so, the server does not "
        "keep to response_format: use a profile with json_schema=False and tool_mode='native'.",
        answer=answer,
    )


def written(message: ChatMessage, names: frozenset[str]) -> ChatMessage:
    """The message with the calls that its text holds as JSON: tagged, fenced, or all of it.

    A call names one of these tools, beside its arguments and nothing else; else the text is an
    answer that happens to be JSON, and stays one. The same message if there is no call in it.
    """
    text = message.content or ""
    blocks = [tagged or fenced for tagged, fenced in _BLOCKS.findall(text)] or [text]
    calls: list[ToolCall] = []
    for block in blocks:
        for data in _values(block):
            call = _call(data, names, len(calls))
            if call is None:
                return message
            calls.append(call)
    if not calls:
        return message
    rest = _BLOCKS.sub("", text).strip() if _BLOCKS.search(text) else ""
    extra = {**message.extra, RECOVERED_FROM: "content"}
    return replace(message, content=rest or None, tool_calls=tuple(calls), extra=extra)


def bounded(schema: Mapping[str, Any], tokens_max: int) -> dict[str, Any]:
    """The schema with an end to whatever it lets go on: texts, lists, digits, unknown properties."""
    made: dict[str, Any] = {}
    for word, value in schema.items():
        match word:
            case "properties" | "$defs" | "definitions" | "patternProperties":
                parts = cast("Mapping[str, Any]", value)
                made[word] = {name: _bounded(part, tokens_max) for name, part in parts.items()}
            case "anyOf" | "oneOf" | "allOf" | "prefixItems":
                made[word] = [_bounded(part, tokens_max) for part in cast("list[Any]", value)]
            case "items" | "additionalProperties":
                made[word] = _bounded(value, tokens_max)
            case _:
                made[word] = value
    kind = made.get("type")
    kinds = cast("list[object]", kind) if isinstance(kind, list) else [kind]
    if "string" in kinds and not any(word in made for word in _LITERAL):
        made["maxLength"] = max(2 * tokens_max, made.get("minLength", 0))
    if "array" in kinds and "maxItems" not in made:
        made["maxItems"] = max(tokens_max // 32, 8, made.get("minItems", 0))
    if "integer" in kinds and not any(word in made for word in (*_LITERAL, "multipleOf")):
        made.setdefault("minimum", -_INTEGER_MAX)
        made.setdefault("maximum", _INTEGER_MAX)
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def _bounded(schema: Any, tokens_max: int) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    return bounded(cast("Mapping[str, Any]", schema), tokens_max)


# ---- what may be answered ----


def _choices(request: ModelRequest) -> tuple[Sequence[Mapping[str, Any]], bool]:
    """The tools that may be called now, and whether a reply will do instead."""
    tools = [tool for tool in functions(request.tools) if tool.get("name")]
    choice: Any = request.settings.get("tool_choice")
    if choice == "none":
        return (), True
    if isinstance(choice, Mapping):
        wanted = cast("Mapping[str, Any]", choice).get("function", {}).get("name")
        return [tool for tool in tools if tool["name"] == wanted], False
    ends = any(tool["name"] in _ENDS for tool in tools)
    return tools, not (ends or choice == "required")


def _schema(
    tools: Sequence[Mapping[str, Any]], reply: bool, schema: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One schema of all calls. Definitions of each tool get its number, since they are the root's."""
    defs: dict[str, Any] = {}
    branches: list[dict[str, Any]] = []
    for n, tool in enumerate(tools):
        arguments = _hoisted(tool.get("parameters") or {"type": "object"}, f"t{n}_", defs)
        branches.append(_object({_TOOL: {"const": tool["name"]}, "arguments": arguments}))
    if reply:
        said = {"type": "string"} if schema is None else _hoisted(schema, "reply_", defs)
        branches.append(_object({_REPLY: said}))
    made: dict[str, Any] = branches[0] if len(branches) == 1 else {"anyOf": branches}
    return {**made, "$defs": defs} if defs else made


def _hoisted(schema: Mapping[str, Any], prefix: str, defs: dict[str, Any]) -> dict[str, Any]:
    """The schema, its definitions moved to `defs` under new names."""
    text = re.sub(r'("#/\$defs/)', rf"\1{prefix}", json.dumps(schema, ensure_ascii=False))
    moved: dict[str, Any] = json.loads(text)
    for name, part in moved.pop("$defs", {}).items():
        defs[f"{prefix}{name}"] = part
    return moved


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# ---- what the model reads ----


def _told(tools: Sequence[Mapping[str, Any]], reply: bool) -> str:
    lines = [
        "You act by writing one JSON object, and nothing else.",
        'To use a tool: {"tool": its name, "arguments": {...}}. Its result comes back to you.',
    ]
    if reply:
        lines.append('When you know enough, or need no tool: {"reply": your answer}.')
    lines.append("Never ask for what a result above has told you. The tools:")
    for tool in tools:
        parameters: Any = tool.get("parameters") or {}
        short = {key: parameters[key] for key in ("properties", "$defs") if key in parameters}
        told = json.dumps(short.pop("properties", {}), ensure_ascii=False)
        more = f" where {json.dumps(short, ensure_ascii=False)}" if short else ""
        lines.append(f"- {tool['name']}: {tool.get('description', '')} arguments: {told}{more}")
    return "\n".join(lines)


def _messages(messages: Sequence[ChatMessage], told: str) -> Iterator[ChatMessage]:
    """The conversation with its calls and results as text, and no two of one role in a row.

    Many templates know neither calls nor two messages of the user's. What came before stays the same,
    so that a server finds it in its cache.
    """
    names: dict[str, str] = {}
    held: ChatMessage | None = None
    rest = list(messages)
    if told:
        given = rest.pop(0).content or "" if rest and rest[0].role == "system" else ""
        rest.insert(0, ChatMessage("system", f"{given}\n\n{told}".lstrip()))
    for message in rest:
        names |= {call.id: call.name for call in message.tool_calls}
        plain = _plain(message, names)
        if held is not None and held.role == plain.role and not (held.media or plain.media):
            held = replace(held, content=f"{held.content or ''}\n\n{plain.content or ''}")
            continue
        if held is not None:
            yield held
        held = plain
    if held is not None:
        yield held


def _plain(message: ChatMessage, names: Mapping[str, str]) -> ChatMessage:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", "the tool")
        return ChatMessage("user", f"Result of {name}:\n{message.content or ''}")
    if not message.tool_calls:
        return message
    calls = "\n".join(
        f'{{"{_TOOL}": {json.dumps(call.name)}, "arguments": {call.arguments}}}'
        for call in message.tool_calls
    )
    text = f"{message.content}\n{calls}" if message.content else calls
    return replace(message, content=text, tool_calls=())


# ---- calls in a text ----


def _values(text: str) -> list[object]:
    """The JSON values that a block is: one, or the items of one list; none if it is no JSON."""
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return cast("list[object]", data) if isinstance(data, list) else [data]


def _call(data: object, names: frozenset[str], place: int) -> ToolCall | None:
    if not isinstance(data, dict):
        return None
    given = cast("dict[str, Any]", data)
    given = given.get("function", given) if given.get("type") == "function" else given
    name = given.get("name", given.get(_TOOL))
    arguments = given.get("arguments", given.get("parameters"))
    if len(given) != 2 or not isinstance(name, str) or name not in names:
        return None
    if isinstance(arguments, str):
        return ToolCall(f"call_{place + 1}", name, arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(f"call_{place + 1}", name, json.dumps(arguments, ensure_ascii=False))
