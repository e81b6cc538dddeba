"""What a model gets of an API's answer: JSON as data, cut to a size; else text, or a file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from flowkit.node import Context
from flowkit.nodes.tools.openapi.credentials import REDACTED
from flowkit.nodes.tools.openapi.document import DEPTH_MAX, Json, is_array, is_object
from flowkit.nodes.tools.openapi.schemas import shortened
from flowkit.nodes.tools.web import Answer
from flowkit.nodes.tools.web.reading import text_of
from flowkit.values import Artifact, compact

DATA_CHARACTERS: Final = 12_000
"""Of JSON, or of text, that a model gets of one answer."""
ERROR_CHARACTERS: Final = 1_500
RETRY_S_MAX: Final = 300.0

_SIZES: Final = ((100, 2_000), (30, 1_000), (10, 400), (5, 200), (2, 100))
"""Items of a list and characters of a text that are kept, from generous to spare."""


class ApiAnswer(BaseModel):
    """An API's answer. `ok`: its status is below 400; else `error` says what the API has against it.

    `data` is JSON. Where it was cut, `note` says so, and `file` is the whole of it.
    """

    model_config = ConfigDict(frozen=True)

    ok: bool
    status: int
    data: Any = None
    text: str = ""
    error: str = ""
    note: str = ""
    file: Artifact | None = None


async def answer_of(ctx: Context, answer: Answer, name: str) -> ApiAnswer:
    """The answer to a call of the tool `name`, of which a file's name is made."""
    notes = [*_told(answer)]
    if answer.status >= 400:
        return ApiAnswer(
            ok=False, status=answer.status, error=error_of(answer), note=" ".join(notes)
        )
    if 300 <= answer.status < 400:
        notes.append("The API points to another address, which was not followed.")
    if answer.cut:
        notes.append(f"The answer was cut after {len(answer.body):,} bytes.")
    data, is_json = _json(answer)
    if is_json:
        shown = fitted(data)
        if shown == data:
            return ApiAnswer(ok=True, status=answer.status, data=data, note=" ".join(notes))
        notes.append("Long lists and texts were cut: ask for less, or a page; `file` is the whole.")
        whole = await _kept(ctx, answer, f"{name}.json")
        return ApiAnswer(
            ok=True, status=answer.status, data=shown, note=" ".join(notes), file=whole
        )
    if not answer.body:
        return ApiAnswer(ok=True, status=answer.status, note=" ".join(notes))
    if not _is_text(answer):
        data = await _kept(ctx, answer, f"{name}.bin")
        return ApiAnswer(ok=True, status=answer.status, note=" ".join(notes), file=data)
    text = text_of(answer)
    file: Artifact | None = None
    if len(text) > DATA_CHARACTERS:
        notes.append(f"The first of {len(text):,} characters; `file` is the whole.")
        file = await _kept(ctx, answer, f"{name}.txt")
    return ApiAnswer(
        ok=True, status=answer.status, text=text[:DATA_CHARACTERS], note=" ".join(notes), file=file
    )


async def _kept(ctx: Context, answer: Answer, name: str) -> Artifact:
    kind = answer.media_type if re.fullmatch(r"[\w.+-]+/[\w.+-]+", answer.media_type) else ""
    return await ctx.artifact(
        answer.body, name=name, media_type=kind[:100] or "application/octet-stream"
    )


def _told(answer: Answer) -> Sequence[str]:
    """Headers that say where to go on."""
    return [
        f"{name.title()}: {shortened(answer.headers[name], 500)}"
        for name in ("location", "link")
        if answer.headers.get(name)
    ]


def _is_text(answer: Answer) -> bool:
    kind = answer.media_type
    known = kind.startswith("text/") or kind.endswith(("xml", "yaml", "javascript", "json"))
    return (known or not kind) and b"\0" not in answer.body[:1_000]


def _json(answer: Answer) -> tuple[Json, bool]:
    kind = answer.media_type
    if not (kind.endswith("json") or not kind) or answer.cut:
        return None, False
    try:
        found: Json = json.loads(text_of(answer), parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None, False
    return found, True


def _no_json(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def fitted(data: Json) -> Json:
    """The data if it is short enough, else as much of it as is: fewer items, shorter texts."""
    made = _cut(data, 1 << 40, 1 << 40, 0)
    for items, characters in _SIZES:
        if len(compact(made)) <= DATA_CHARACTERS:
            return made
        made = _cut(data, items, characters, 0)
    text = compact(made)
    return made if len(text) <= DATA_CHARACTERS else f"{text[:DATA_CHARACTERS]}…"


def _cut(data: Json, items: int, characters: int, depth: int) -> Json:
    if isinstance(data, str):
        return (
            data if len(data) <= characters else f"{data[:characters]}… [{len(data):,} characters]"
        )
    if depth > DEPTH_MAX:
        return "[nested too deeply]"
    if is_array(data):
        kept = [_cut(each, items, characters, depth + 1) for each in data[:items]]
        more = len(data) - len(kept)
        return [*kept, f"[{more:,} more of {len(data):,}]"] if more > 0 else kept
    if is_object(data):
        return {key: _cut(each, items, characters, depth + 1) for key, each in data.items()}
    return data


# ---- what went wrong


def error_of(answer: Answer) -> str:
    """An error's status and what the API says of it; of a problem detail (RFC 9457) its parts."""
    data, is_json = _json(answer)
    if is_object(data):
        problem = {str(key): each for key, each in data.items() if key != "status"}
        title, detail = (shortened(problem.pop(key, ""), 500) for key in ("title", "detail"))
        rest = compact(_cut(problem, 10, 300, 0)) if problem else ""
        said = ": ".join(filter(None, (title, detail, rest)))
    elif is_json:
        said = compact(_cut(data, 10, 300, 0))
    else:
        said = text_of(answer) if _is_text(answer) else ""
    said = shortened(said, ERROR_CHARACTERS)
    return f"HTTP {answer.status} {_phrase(answer.status)}{f': {said}' if said else '.'}"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "error"


def retry_after(answer: Answer) -> float | None:
    """Seconds after which the API wants to be asked again; a date counts from the answer's own date."""
    told = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", told):
        return float(told)
    until, now = _date(told), _date(answer.headers.get("date", ""))
    return max((until - now).total_seconds(), 0.0) if until and now else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def without(answer: Answer, hidden: Sequence[str]) -> Answer:
    """The answer without the texts that must not be shown, which some APIs give back."""
    body, headers = answer.body, dict(answer.headers)
    for secret in hidden:
        body = body.replace(secret.encode(), REDACTED.encode())
        headers = {name: value.replace(secret, REDACTED) for name, value in headers.items()}
    return Answer("", answer.status, answer.media_type, answer.charset, body, answer.cut, headers)
