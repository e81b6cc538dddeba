"""Text for people and for programs: cleaned of what a terminal would obey, times, JSON."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC and other strings: titles, links, clipboard
    r"|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]"
)
_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
# Control characters, directions that reorder a line, and half characters.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_IN_JSON = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


_LAST_DAY = 253_402_128_000.0  # 9999-12-31


def clean(text: object, width: int | None = None) -> str:
    """A text as one line that any terminal can take, cut to a width."""
    plain = _CONTROLS.sub("", _BREAKS.sub(" ", _ESCAPES.sub("", str(text))))
    if width is not None and len(plain) > width:
        return plain[: max(width - 1, 0)] + "…"
    return plain


def clean_lines(text: str) -> list[str]:
    """A text of several lines, each as any terminal can take it."""
    return [clean(line) for line in re.split(r"\r\n|[\n\v\f\r\x85\u2028\u2029]", text)]


def to_json(data: Any, *, indent: int | None = None) -> str:
    """JSON whose text no terminal obeys; it reads back the same."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def rfc3339(at: float | None) -> str | None:
    """A Unix time in UTC, as RFC 3339 has it; None for none."""
    if at is None:
        return None
    return _moment(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(at: float | None) -> str:
    """A Unix time as people here read it."""
    return "-" if at is None else _moment(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _moment(at: float) -> dt.datetime:
    # What a damaged row says must not be an error here.
    return dt.datetime.fromtimestamp(min(max(at, 0.0), _LAST_DAY), dt.UTC)


def span(seconds: float) -> str:
    """A duration as people read it."""
    seconds = max(seconds, 0.0)
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds >= 0.05 else f"{seconds * 1000:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def counted(many: int, thing: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{many:,} {thing}{'' if many == 1 else 's'}"


_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_since(text: str, now: float) -> float:
    """Unix time of `90m`, `2h`, `3d` ago, or of a date with or without time; `ValueError` for others."""
    found = _AGO.fullmatch(text.strip())
    if found:
        return now - float(found[1]) * _UNIT_S[found[2]]
    return dt.datetime.fromisoformat(text.strip()).timestamp()
