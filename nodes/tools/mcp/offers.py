"""What a server offers, and the lock file in which it was reviewed.

A description decides what a model does with a tool, and a server may change it any day. So tools are made
of what stands in a lock file, which is reviewed like code; what the server says today is compared with it
before each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from flowkit.errors import DeclarationError
from flowkit.values import combine

VERSION: Final = 1
DESCRIPTION_CHARACTERS_MAX: Final = 4_000

_PARTS: Final = ("title", "description", "schema", "returns", "annotations")


class NotPinned(DeclarationError):
    """A lock file has nothing of this server. `server` and `lock` say of which, and where."""

    def __init__(self, message: str, *, server: Any = None, lock: Path | None = None) -> None:
        super().__init__(message)
        self.server = server
        self.lock = lock


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as a server describes it. Every part of it is the server's claim."""

    name: str
    title: str
    description: str
    schema: Mapping[str, Any]
    returns: Mapping[str, Any] | None
    annotations: Mapping[str, Any]

    def digest(self) -> str:
        """128 bits of all its parts, as hex."""
        return combine([self.name, *(self._part(part) for part in _PARTS)])

    def changed(self, other: Offer) -> Sequence[str]:
        """The parts in which another one differs."""
        return [part for part in _PARTS if self._part(part) != other._part(part)]

    def _part(self, part: str) -> str:
        return _canonical(getattr(self, part))


def offers_of(listed: Sequence[Any], server: str) -> tuple[Offer, ...]:
    """The tools of an answer to `tools/list`; raises `DeclarationError` where two have one name."""
    made = [
        Offer(
            each.name,
            each.title or "",
            each.description or "",
            each.input_schema,
            each.output_schema,
            each.annotations.model_dump(by_alias=True, exclude_none=True)
            if each.annotations
            else {},
        )
        for each in listed
    ]
    names = [each.name for each in made]
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(
                f"MCP server {server!r} offers two tools named {name[:64]!r}, of which one hides the other."
            )
    return tuple(sorted(made, key=lambda each: each.name))


# ---- the lock file ----


def read_lock(lock: Path, server: Any) -> tuple[Offer, ...]:
    """What a server offered when it was pinned; raises `DeclarationError`, or `NotPinned`."""
    servers = _read(lock)
    if server.name not in servers:
        raise NotPinned(
            f"{lock} has nothing of MCP server {server.name!r}: `flowkit mcp pin TARGET` asks the server and "
            f"writes it there. Review it like code: models do what it says.",
            server=server,
            lock=lock,
        )
    return servers[server.name]


def write_lock(lock: Path, server: str, offers: Sequence[Offer]) -> None:
    """Put what a server offers in the place of what stood there; other servers stay."""
    servers = {**_read(lock), server: tuple(offers)}
    told = {
        "version": VERSION,
        "servers": {
            name: {"tools": [_written(each) for each in tools]} for name, tools in servers.items()
        },
    }
    # In ASCII, so that a review sees what an editor would hide.
    text = json.dumps(told, indent=2, sort_keys=True, ensure_ascii=True)
    beside = lock.with_name(f".{lock.name}.new")
    beside.write_text(f"{text}\n", "ascii")
    beside.replace(lock)


def _read(lock: Path) -> dict[str, tuple[Offer, ...]]:
    try:
        text = lock.read_text("utf-8")
    except FileNotFoundError:
        return {}
    try:
        told: Any = json.loads(text)
        if told["version"] != VERSION:
            raise ValueError(f"its version is {told['version']!r}, this flowkit reads {VERSION}")
        return {
            name: tuple(_offer(each) for each in of["tools"])
            for name, of in told["servers"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeclarationError(
            f"{lock} is no lock file of MCP tools: {type(error).__name__}: {error}. Take it from version "
            f"control again, or delete it and run `flowkit mcp pin`."
        ) from error


def _offer(told: Mapping[str, Any]) -> Offer:
    return Offer(
        str(told["name"]), str(told["title"]), str(told["description"]), dict(told["schema"]),
        told["returns"], dict(told["annotations"]),
    )  # fmt: skip


def _written(offer: Offer) -> dict[str, Any]:
    return {"name": offer.name, **{part: getattr(offer, part) for part in _PARTS}}


def _canonical(part: object) -> str:
    return json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


# ---- text from strangers ----

# Control characters but tab and line ends; what changes the direction of text; tags and selectors, in
# which a whole text can be written that nobody sees.
_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)


def seen(text: str, characters_max: int | None = None) -> str:
    """A stranger's text without what a reader does not see, cut to a length."""
    text = _HIDDEN.sub("", text)
    if characters_max is not None and len(text) > characters_max:
        return f"{text[:characters_max]} … ({len(text) - characters_max:,} characters more)"
    return text


def seen_schema(schema: Any) -> Any:
    """A schema whose descriptions and titles are without what a reader does not see."""
    if isinstance(schema, list):
        return [seen_schema(each) for each in cast("Sequence[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: seen(each, DESCRIPTION_CHARACTERS_MAX)
        if key in ("description", "title", "$comment") and isinstance(each, str)
        else seen_schema(each)
        for key, each in cast("dict[str, Any]", schema).items()
    }
