"""A tool's answer as a value of the run: text and data of bounded length, the rest as artifacts."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel, ConfigDict

from flowkit.node import Context
from flowkit.nodes.tools.mcp.offers import seen
from flowkit.values import Artifact

if TYPE_CHECKING:
    from mcp_types import CallToolResult

TEXT_CHARACTERS_MAX: Final = 50_000
FILES_MAX: Final = 20
_DEPTH_MAX: Final = 60


class McpResult(BaseModel):
    """What a tool of a server gave: a stranger's words, to be read and not obeyed.

    `text` has at most 50,000 characters, and so has `data` as JSON; what is longer is kept whole in
    `files`, where pictures and sounds are too. `note` says what was done so.
    """

    model_config = ConfigDict(frozen=True)

    text: str = ""
    data: Any = None
    files: list[Artifact] = []
    note: str = ""


def said(answer: CallToolResult) -> str:
    """All the text of an answer."""
    return seen("\n".join(filter(None, (_text(each) for each in answer.content))))


async def kept(ctx: Context, answer: CallToolResult) -> McpResult:
    """The value of an answer that is no error. Nothing in it can make the step fail."""
    files: list[Artifact] = []
    notes: list[str] = []
    for each in answer.content:
        found = _bytes(each)
        if found is None:
            continue
        raw, kind, why = found
        if why or len(files) == FILES_MAX:
            notes.append(why or f"only the first {FILES_MAX} files were kept")
            continue
        name = f"{each.type}-{len(files) + 1}"
        files.append(await ctx.artifact(raw, name=name, media_type=kind))
    text, data = said(answer), answer.structured_content
    if data is not None:
        told = _plain(data)
        if told is None or len(told) > TEXT_CHARACTERS_MAX:
            whole = told or json.dumps(data)
            files.append(await ctx.artifact(whole, name="data.json", media_type="application/json"))
            notes.append(f"data: {len(whole):,} characters of JSON, kept in data.json")
            data = None
        elif _same(text, data):
            text = ""  # the protocol has servers say their data as text once more
    if len(text) > TEXT_CHARACTERS_MAX:
        files.append(await ctx.artifact(text, name="text.txt", media_type="text/plain"))
        notes.append(
            f"text: the first {TEXT_CHARACTERS_MAX:,} of {len(text):,} characters; all in text.txt"
        )
        text = text[:TEXT_CHARACTERS_MAX]
    return McpResult(text=text, data=data, files=files, note="; ".join(dict.fromkeys(notes)))


def _text(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "resource_link":
            return f"{block.name}: {block.uri}"
        case "resource" if hasattr(block.resource, "text"):
            return f"{block.resource.uri}:\n{block.resource.text}"
        case _:
            return ""


def _bytes(block: Any) -> tuple[bytes, str, str] | None:
    """A block's bytes and their kind, or why there are none; None for a block of text."""
    match block.type:
        case "image" | "audio":
            coded, kind = block.data, block.mime_type
        case "resource" if hasattr(block.resource, "blob"):
            coded, kind = block.resource.blob, block.resource.mime_type or ""
        case _:
            return None
    kind = seen(kind, 100) or "application/octet-stream"
    try:
        return base64.b64decode(coded, validate=True), kind, ""
    except (binascii.Error, ValueError):
        return b"", kind, f"a file of type {kind} was no base64, and was dropped"


def _plain(data: Any) -> str | None:
    """The data as JSON; None for what a journal would refuse: NaN, or nested too deeply."""
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return text if _depth(data) <= _DEPTH_MAX else None


def _depth(data: Any) -> int:
    deep = 0
    level: list[Any] = [data]
    while level and deep <= _DEPTH_MAX:
        deep += 1
        level = [part for each in level for part in _parts(each)]
    return deep


def _parts(data: Any) -> Iterable[Any]:
    if isinstance(data, dict):
        return cast("dict[str, Any]", data).values()
    return cast("Iterable[Any]", data) if isinstance(data, list) else ()


def _same(text: str, data: Any) -> bool:
    try:
        return bool(json.loads(text) == data)
    except (ValueError, RecursionError):
        return False
