"""JSON that a model wrote: read strictly, else mended where only one reading is left.

A repair may change punctuation and nothing else; what would have to be guessed is refused, so that
the model can be asked. It all happens in the event loop, so the time grows with the length of a text,
and the one stage that takes longer has a limit.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

REPAIR_CHARS_MAX: Final = 10_000
"""Longer texts are not repaired: the time grows with the square (half a second for these)."""

OBJECTS_MAX: Final = 256
"""Objects that are told apart in one text; the rest of it is one piece."""

TOKENS_MAX: Final = 100_000
"""Texts, brackets and commas of a text that is tidied (0.2 s); 1 MB can have a million of them."""


def read_json(text: str, *, repair_chars: int = REPAIR_CHARS_MAX) -> tuple[Any, bool]:
    """The data of a JSON text, and whether it was strict JSON; raises `ValueError`, which says where.

    Two properties of one name, NaN and infinity are not strict. A text within a text is given as it is.
    A text of more than `repair_chars` is not repaired: who reads many texts shares the limit out.
    """
    try:
        return _STRICT.decode(text), True
    except (ValueError, RecursionError) as error:
        cheap = (_LENIENT.decode, _within, _tidied)
        for mend in (*cheap, _repaired) if len(text) <= repair_chars else cheap:
            try:
                return mend(bare(text)), False
            except (ValueError, RecursionError):
                pass
        reason, near = str(error)[:200], ""
        if isinstance(error, json.JSONDecodeError):
            around = text[max(error.pos - 20, 0) : error.pos + 20]
            reason, near = error.msg, f" at character {error.pos}, near {around!r}"
        raise ValueError(f"{reason}{near}") from None


def is_object(text: str) -> bool:
    """Whether the text is strict JSON of an object."""
    try:
        return isinstance(_STRICT.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def bare(text: str) -> str:
    """The text without the code fence that some models put around it."""
    text = text.strip("\ufeff\xa0 \t\r\n")
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0].strip()
    return text


def objects_in(text: str) -> Iterator[str]:
    """The outermost objects that stand in a text, as they are written; an open one goes to its end."""
    at = 0
    for _ in range(OBJECTS_MAX):
        begin = _BEGIN.search(text, at)
        if begin is None:
            return
        at = _end_of_object(text, begin.start())
        yield text[begin.start() : at]
    if begin := _BEGIN.search(text, at):
        yield text[begin.start() :]


_BEGIN: Final = re.compile(r"""\{\s*(?:["']|tool\b)""")
"""An object with a property; braces in prose, and doubled ones, have none."""

_TEXT: Final = r""""[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*'"""
_INSIDE: Final = re.compile(rf"""{_TEXT}|["'].*|[{{}}]""", re.DOTALL)
"""Texts, an open text with all that follows (once: not again from each quote in it), and braces."""


def _end_of_object(text: str, begin: int) -> int:
    depth = 0
    for found in _INSIDE.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return len(text)


def _told_apart(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an object has two properties of one name")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no number of JSON")
    return number


_HOOKS: Final[Mapping[str, Any]] = {
    "object_pairs_hook": _told_apart,
    "parse_float": _finite,
    "parse_constant": _finite,
}
_STRICT: Final = json.JSONDecoder(**_HOOKS)
_LENIENT: Final = json.JSONDecoder(strict=False, **_HOOKS)
"""Takes line ends and tabs inside texts, which changes no meaning."""


def _within(text: str) -> Any:
    """The one object that stands in some prose; `ValueError` for none, and for several unlike ones."""
    at = text.find("{")
    if at < 0 or '"' in text[:at] or "[" in text[:at]:
        raise ValueError("what stands before the object may be a part of it")
    first, end = _LENIENT.raw_decode(text, at)
    for _ in range(OBJECTS_MAX):
        at = text.find("{", end)
        if re.search('[":]', text[end:at] if at >= 0 else text[end:]):
            raise ValueError("what stands behind the object may be a part of it")
        if at < 0:
            return first
        other, end = _LENIENT.raw_decode(text, at)
        if other != first:
            break
    raise ValueError("there is more than one object")


def _tidied(text: str) -> Any:
    """The data of a text with commas too many, brackets too few, or the quotes and words of Python."""
    if not text.endswith((*_ENDS, "'", "True", "False", "None")):
        raise ValueError("the text is cut")
    tokens: list[str] = _TOKEN.findall(text)
    if tokens[-1][0] in "\"'" and not re.fullmatch(_TEXT, tokens[-1], re.DOTALL):
        raise ValueError("a text has no end")
    if len(tokens) > TOKENS_MAX:
        raise ValueError("it has too many parts")
    parts: list[str] = []
    ends: list[str] = []
    for token in tokens:
        if token in ("{", "["):
            ends.append("}" if token == "{" else "]")
        elif token in ("}", "]"):
            if not ends or ends.pop() != token:
                raise ValueError("the brackets do not match")
            if parts[-1] == ",":
                parts.pop()
        elif token[0] == "'" and len(token) > 1:
            token = f'"{re.sub(_QUOTES, _requoted, token[1:-1])}"'
        elif token[0] not in "\"'":
            token = re.sub(r"\b(True|False|None)\b", lambda word: _WORDS[word[0]], token)
        if not token.isspace():
            parts.append(token)
    return _LENIENT.decode("".join(parts + ends[::-1]))


_TOKEN: Final = re.compile(rf"""{_TEXT}|["'].*|[{{}}\[\],]|[^{{}}\[\],"']+""", re.DOTALL)
_QUOTES: Final = re.compile(r'\\.|"', re.DOTALL)
_WORDS: Final = {"True": "true", "False": "false", "None": "null"}


def _requoted(found: re.Match[str]) -> str:
    return {'"': '\\"', "\\'": "'"}.get(found[0], found[0])


def _repaired(text: str) -> Any:
    """What json-repair makes of a text, if only punctuation differs; else `ValueError`."""
    if not text.startswith("{") or _is_cut(text) or _is_vague(text):
        raise ValueError("there may be more than one reading")
    from json_repair import loads

    data: Any = loads(text, skip_json_loads=True)
    data = _STRICT.decode(json.dumps(data, allow_nan=False))  # joins the halves of characters
    if not isinstance(data, dict) or not _alike(text, json.dumps(data, ensure_ascii=False)):
        raise ValueError("the repair changes more than punctuation")
    return cast(Any, data)


def _is_cut(text: str) -> bool:
    """Whether the end is missing in the middle of something, not only its closing brackets."""
    quotes = len(re.findall(r'(?<!\\)(?:\\\\)*"', text))
    return quotes % 2 == 1 or not text.endswith(_ENDS)


_ENDS: Final = ("}", "]", '"', "true", "false", "null")


def _is_vague(text: str) -> bool:
    """Whether nobody can know which backslashes are escapes, or where a text begins."""
    escapes = {found[1] for found in re.finditer(_ESCAPE, text)}
    right = {each for each in escapes if len(each) > 1 or each in "bfnrt"}
    wrong = escapes - right - set('"\\/')
    return bool(re.search(_FOREIGN, text) or (wrong and (right or wrong & set("uUxN01234567"))))


_FOREIGN: Final = re.compile(r'''"""|\b(NaN|Infinity)\b|"[：，]|[：，]\s*["{\[]''')
"""Python's long texts, numbers that JSON does not have, and full-width signs in place of JSON's."""


def _alike(text: str, made: str) -> bool:
    """Whether a repair has changed no more than quotes, commas, colons, space and missing ends."""
    return (
        _substance(text) == _substance(made)
        and not _escapes(text) - _escapes(made)
        and made.count('""') == text.count('""') + text.count("''")
        and all(
            made.count(begin) == text.count(begin)
            and made.count(end) == max(text.count(begin), text.count(end))
            for begin, end in ("{}", "[]")
        )
    )


_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


def _escapes(text: str) -> Counter[str]:
    return Counter(found[1] for found in re.finditer(_ESCAPE, text) if found[1] in 'bfnrt"\\')


def _substance(text: str) -> str:
    """A JSON text without what a repair may change."""
    text = re.sub(_ESCAPE, _meaning, text)
    return re.sub(r"""[\s"'`,:{}\[\]\\]""", "", text).casefold().replace("none", "null")


def _meaning(escape: re.Match[str]) -> str:
    """What an escape stands for, without the white space and the quotes, which are counted."""
    code = escape[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else "" if code in 'bfnrt"\\' else code
