"""Two results as plain data: where they differ, apart from what may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from flowkit.values import compact

SHOWN_MAX = 60


def difference(wanted: Any, found: Any, ignore: Sequence[str] = ()) -> str:
    """The first place where two JSON values differ, in words; empty for none.

    `ignore` holds paths of fields joined by dots; `*` stands for any field or item.
    """
    return _differ(wanted, found, (), [tuple(path.split(".")) for path in ignore])


def _differ(
    wanted: Any, found: Any, path: tuple[str, ...], ignore: Sequence[tuple[str, ...]]
) -> str:
    if any(_covers(pattern, path) for pattern in ignore):
        return ""
    if isinstance(wanted, dict) and isinstance(found, dict):
        one, other = cast("dict[str, Any]", wanted), cast("dict[str, Any]", found)
        for name in [*one, *(name for name in other if name not in one)]:
            told = _differ(one.get(name), other.get(name), (*path, name), ignore)
            if told:
                return told
        return ""
    if isinstance(wanted, list) and isinstance(found, list):
        ones, others = cast("Sequence[Any]", wanted), cast("Sequence[Any]", found)
        if len(ones) != len(others):
            return f"{_name(path)} has {len(others)} items, not {len(ones)}"
        for index, (one, other) in enumerate(zip(ones, others, strict=True)):
            told = _differ(one, other, (*path, str(index)), ignore)
            if told:
                return told
        return ""
    same = wanted == found and isinstance(wanted, bool) == isinstance(found, bool)
    return "" if same else f"{_name(path)} is {_shown(found)}, not {_shown(wanted)}"


def has(value: Any, path: str) -> bool:
    """Whether a JSON value has a field of this path."""
    found: list[Any] = [value]
    for part in path.split("."):
        inner: list[Any] = []
        for each in found:
            if isinstance(each, dict):
                fields = cast("dict[str, Any]", each)
                inner += [item for name, item in fields.items() if part in ("*", name)]
            elif isinstance(each, list):
                items = cast("Sequence[Any]", each)
                inner += [item for n, item in enumerate(items) if part in ("*", str(n))]
        found = inner
    return bool(found)


def more_or_less(wanted: Sequence[Any], found: Sequence[Any]) -> str:
    """What stands in a ledger oftener or more seldom than it should, in words; empty for nothing."""
    one, other = (Counter(compact(each) for each in entries) for entries in (wanted, found))
    told = [
        f"{text[:60]} {other[text]} times, not {one[text]}"
        for text in [*one, *(text for text in other if text not in one)]
        if one[text] != other[text]
    ]
    return "; ".join(told[:3])


def _covers(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return len(pattern) == len(path) and all(
        part in ("*", name) for part, name in zip(pattern, path, strict=True)
    )


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the result"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
