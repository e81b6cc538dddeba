"""An OpenAPI document as plain data: read from JSON or YAML, of a bounded size, with its own references.

Nothing is fetched to read one. A reference leads to a place in the same document, or is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeGuard
from urllib.parse import unquote

from flowkit.errors import DeclarationError
from flowkit.nodes.tools.web import Web

Json: TypeAlias = Any

JSON_BYTES_MAX: Final = 32_000_000
YAML_BYTES_MAX: Final = 4_000_000
DEPTH_MAX: Final = 100
PARTS_MAX: Final = 3_000_000

_VERSION: Final = re.compile(r"3\.[012](\.[0-9A-Za-z.-]{1,20})?")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,300})(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?")


class Unusable(ValueError):
    """A part of a document of which no tool can be made; the text says which and why."""


def is_object(part: object) -> TypeGuard[dict[str, Any]]:
    """Whether a part is an object; its keys are texts."""
    return isinstance(part, dict)


def is_array(part: object) -> TypeGuard[list[Any]]:
    return isinstance(part, list)


class Document:
    """An OpenAPI document of version 3.0, 3.1 or 3.2.

    Raises:
        DeclarationError: it is none, of another version, too deep or too large.
    """

    def __init__(self, data: Mapping[str, Any], label: str) -> None:
        self.label = label
        _check_size(data, label)
        version = data.get("openapi")
        if "swagger" in data:
            raise DeclarationError(
                f"{label}: Swagger {str(data['swagger'])[:20]} is not read, only OpenAPI 3.0 to 3.2. Convert it, "
                f"such as with `npx swagger2openapi`."
            )
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise DeclarationError(
                f'{label}: it has no "openapi": "3.0.x", "3.1.x" or "3.2.x" but {str(version)[:40]!r}: '
                f"is this an OpenAPI document?"
            )
        if not is_object(data.get("paths", {})):
            raise DeclarationError(f'{label}: its "paths" are no object.')
        self.data = data
        self.is_30 = version.startswith("3.0")

    def at(self, reference: object) -> Json:
        """What a reference of the document leads to; raises `Unusable`."""
        text = str(reference)
        if not text.startswith("#/"):
            raise Unusable(
                f"the reference {text[:120]!r} leads out of the document and is not followed. Bundle it "
                f"into one file first, such as with `npx @redocly/cli bundle`"
            )
        place: Json = self.data
        for step in text[2:].split("/"):
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if is_object(place) and key in place:
                place = place[key]
            elif is_array(place) and key.isascii() and key.isdigit() and len(key) < 7:
                items = place
                if int(key) >= len(items):
                    raise Unusable(f"the reference {text[:120]!r} leads nowhere")
                place = items[int(key)]
            else:
                raise Unusable(f"the reference {text[:120]!r} leads nowhere")
        return place

    def follow(self, part: Json, what: str) -> Mapping[str, Any]:
        """The object that a part is or refers to; raises `Unusable`."""
        seen: set[str] = set()
        while is_object(part) and "$ref" in part:
            reference = str(part["$ref"])
            if reference in seen:
                raise Unusable(f"the reference {reference[:120]!r} leads to itself")
            seen.add(reference)
            part = self.at(reference)
        if not is_object(part):
            raise Unusable(f"{what} is no object")
        return part


def read_document(source: Mapping[str, Any] | Path | str) -> Document:
    """The document of a file, or of data at hand. Raises `DeclarationError`."""
    if isinstance(source, Mapping):
        return Document(source, "the OpenAPI document")
    if isinstance(source, str) and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source):
        raise DeclarationError(
            f"{source[:200]}: nothing is fetched where tools are declared. Save the document as a file of "
            f"your project, or say `await fetch_document(url, Web())` and give what it returns."
        )
    path = Path(source)
    try:
        if (size := path.stat().st_size) > JSON_BYTES_MAX:
            raise _too_large(path.name, size, JSON_BYTES_MAX)
        data = path.read_bytes()
    except OSError as error:
        raise DeclarationError(f"{path}: it cannot be read: {error.strerror}.") from error
    return Document(_parsed(data, path.name), path.name)


async def fetch_document(url: str, web: Web) -> Mapping[str, Any]:
    """Fetch a document once, as the host's `Web` allows, to be given to `openapi_tools`.

    What a server changes in it later changes the tools, and runs that are under way then stop; save it
    as a file if they shall not.

    Raises:
        Refused: the address may not be asked.
        Unreachable: nobody answered.
        DeclarationError: what came is no OpenAPI document, or longer than `web.bytes_max`.
    """
    answer = await web.get(url, accept="application/json, application/yaml;q=0.9, */*;q=0.5")
    if answer.status != 200:
        raise DeclarationError(
            f"{url[:200]}: it answers HTTP {answer.status} instead of a document."
        )
    if answer.cut:
        raise DeclarationError(
            f"{url[:200]}: it has more than {web.bytes_max:,} bytes. Save it as a file, or give a Web with a "
            f"larger bytes_max=."
        )
    return Document(_parsed(answer.body, url[:200]), url[:200]).data


def _parsed(data: bytes, label: str) -> Mapping[str, Any]:
    text = data.decode("utf-8-sig", "replace")
    try:
        found: Json = json.loads(text) if text.lstrip()[:1] == "{" else _yaml(text, label)
    except RecursionError as error:
        raise DeclarationError(f"{label}: it is nested too deeply.") from error
    except ValueError as error:
        if isinstance(error, DeclarationError):
            raise
        found = _yaml(text, label)  # YAML has objects in braces, too
    if not is_object(found):
        raise DeclarationError(f"{label}: it holds no object: is this an OpenAPI document?")
    return found


def _too_large(label: str, size: int, most: int) -> DeclarationError:
    return DeclarationError(
        f"{label}: it has {size:,} bytes, {most:,} are the most. Cut it down to the operations that are needed."
    )


def _check_size(data: Json, label: str) -> None:
    """Refuse what is too deep, or too large once each part that stands in two places is counted twice.

    YAML's anchors make few bytes stand for any number of parts, or for themselves.
    """
    sizes: dict[int, int] = {}
    held: list[object] = []  # so that no id is given twice

    def size_of(part: Json, depth: int) -> int:
        if depth > DEPTH_MAX:
            raise DeclarationError(f"{label}: it is nested more than {DEPTH_MAX} deep.")
        parts = list(part.values()) if is_object(part) else part if is_array(part) else None
        if parts is None:
            return 1
        key = id(part)
        if key not in sizes:
            held.append(part)
            sizes[key] = 1 + sum(size_of(each, depth + 1) for each in parts)
        if sizes[key] > PARTS_MAX:
            raise DeclarationError(
                f"{label}: written out it has more than {PARTS_MAX:,} parts. If it is YAML, its anchors "
                f"repeat one another."
            )
        return sizes[key]

    size_of(data, 0)


# ---- YAML: the part of it that JSON can say


def _yaml(text: str, label: str) -> Json:
    try:
        yaml: Any = import_module("yaml")
    except ImportError as error:
        raise DeclarationError(
            f'{label}: it is no JSON, and reading YAML needs PyYAML: pip install "flowkit-agents[openapi]"'
        ) from error
    if len(text) > YAML_BYTES_MAX:
        raise DeclarationError(
            f"{label}: it is YAML of {len(text):,} characters, {YAML_BYTES_MAX:,} are the most. Give it as JSON."
        )
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return _Plain(label).of(yaml.compose(text, Loader=loader), 0)
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())[:200]
        raise DeclarationError(f"{label}: it is neither JSON nor YAML: {why}") from error
    except RecursionError as error:
        raise DeclarationError(f"{label}: it is nested too deeply.") from error


class _Plain:
    """Nodes of YAML as plain data. No tag of a program's own is heeded, and no merge key, which doubles."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._made: dict[int, Json] = {}

    def of(self, node: Any, depth: int) -> Json:
        if depth > DEPTH_MAX:  # also one that holds itself
            raise DeclarationError(f"{self._label}: it is nested more than {DEPTH_MAX} deep.")
        if id(node) not in self._made:
            self._made[id(node)] = self._make(node, depth)
        return self._made[id(node)]

    def _make(self, node: Any, depth: int) -> Json:
        if node is None:
            return None
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if isinstance(node.value, str):
            return _scalar(node.value, kind)
        if kind == "seq":
            return [self.of(each, depth + 1) for each in node.value]
        if kind != "map":
            raise DeclarationError(
                f"{self._label}: the YAML tag {str(node.tag)[:80]!r} is not read."
            )
        made: dict[str, Json] = {}
        for key, value in node.value:
            if not isinstance(key.value, str) or str(key.tag).endswith(":merge"):
                line = key.start_mark.line + 1
                raise DeclarationError(
                    f"{self._label}, line {line}: keys are plain texts; merge keys (<<) are not read."
                )
            made[key.value] = self.of(value, depth + 1)
        return made


def _scalar(text: str, kind: str) -> Json:
    """A value by YAML 1.2's JSON schema, as OpenAPI wants it: `yes`, `12:30` and dates are texts."""
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in ("int", "float") and (found := _NUMBER.fullmatch(text)):
        return float(text) if found[2] or found[3] else int(text)
    return text
