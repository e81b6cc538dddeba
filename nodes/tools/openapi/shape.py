"""What an operation takes: its parameters and its body's properties as one flat object of arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast

from flowkit.nodes.tools.openapi.document import Document, Json, Unusable, is_array, is_object
from flowkit.nodes.tools.openapi.operations import Operation
from flowkit.nodes.tools.openapi.schemas import TEXT_CHARACTERS, Schemas, shortened

Where: TypeAlias = Literal["path", "query", "header", "cookie"]

STYLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "path": ("simple", "label", "matrix"),
        "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
        "header": ("simple",),
        "cookie": ("form", "cookie"),
    }
)
"""The styles of each place, its default first. Source: OpenAPI 3.2, 4.12.6."""

_OURS: Final = frozenset({
    "accept", "accept-encoding", "authorization", "connection", "content-encoding", "content-length",
    "content-type", "cookie", "expect", "host", "keep-alive", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
})  # fmt: skip
"""Headers that are no parameter: OpenAPI ignores three, and of the others a message is made."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, and by which argument it comes. `media`: it is JSON in itself."""

    argument: str
    name: str
    where: Where
    style: str
    explode: bool
    media: bool = False
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A body. Its properties come by arguments of their own (`fields`), or it comes whole by one.

    `open`: what no parameter takes is a property, too. `form` says how a property of a form is
    written: its style, and whether it is exploded.
    """

    media_type: str
    required: bool
    whole: str = ""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    open: bool = False
    form: Mapping[str, tuple[str, bool]] = field(default_factory=dict[str, tuple[str, bool]])


@dataclass(frozen=True, slots=True)
class Shape:
    """How an operation's arguments become a request, and the schema that they must fit."""

    parameters: Sequence[Parameter]
    body: Body | None
    schema: Mapping[str, Json]


@dataclass(slots=True)
class _Arguments:
    """Names of arguments, told apart, and kept to what every model's server takes as a name."""

    properties: dict[str, Json] = field(default_factory=dict[str, Json])
    required: list[str] = field(default_factory=list[str])

    def add(self, name: str, where: str, schema: Json, *, required: bool) -> str:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:60] or where
        own, number = plain, 1
        while own in self.properties:
            own = f"{where}_{plain}"[:60] + (f"_{number}" if number > 1 else "")
            number += 1
        self.properties[own] = schema
        if required:
            self.required.append(own)
        return own


def shape_of(document: Document, schemas: Schemas, operation: Operation) -> Shape:
    """What an operation takes. Raises `Unusable` where that cannot be said, or not be sent."""
    arguments = _Arguments()
    keys = _key_names(document)
    parameters = [
        _parameter(document, schemas, each, arguments)
        for each in _parameters(document, operation)
        if _is_ours_to_give(each, keys)
    ]
    _check_path(operation.path, parameters)
    body = _body(document, schemas, operation, arguments)
    definitions = schemas.definitions(*arguments.properties.values())
    schema: dict[str, Json] = {
        "type": "object",
        "properties": arguments.properties,
        "required": arguments.required,
        "additionalProperties": body is not None and body.open,
    }
    return Shape(parameters, body, {**schema, "$defs": definitions} if definitions else schema)


def _parameters(document: Document, operation: Operation) -> Sequence[Mapping[str, Any]]:
    """The path's and the operation's; one of the latter takes the place of one of the former."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for holder in (operation.shared, operation.data):
        listed: Json = holder.get("parameters") or []
        if not is_array(listed):
            raise Unusable("its parameters are no list")
        for each in listed:
            plain = document.follow(each, "a parameter")
            name, where = plain.get("name"), plain.get("in")
            if not isinstance(name, str) or not name or where not in STYLES:
                raise Unusable(f"its parameter {str(name)[:60]!r} is in {str(where)[:30]!r}")
            found[name, str(where)] = plain
    return list(found.values())


def _key_names(document: Document) -> set[tuple[str, str]]:
    """Parameters that carry a key; the host gives it, and never the model."""
    components: Json = document.data.get("components")
    listed: Json = components.get("securitySchemes") if is_object(components) else None
    found: set[tuple[str, str]] = set()
    for each in listed.values() if is_object(listed) else ():
        scheme = document.follow(each, "a security scheme")
        if scheme.get("type") == "apiKey":
            found.add((str(scheme.get("name")).lower(), str(scheme.get("in"))))
    return found


def _is_ours_to_give(parameter: Mapping[str, Any], keys: set[tuple[str, str]]) -> bool:
    name, where = str(parameter["name"]).lower(), str(parameter["in"])
    return (name, where) not in keys and not (where == "header" and name in _OURS)


def _parameter(
    document: Document, schemas: Schemas, data: Mapping[str, Any], arguments: _Arguments
) -> Parameter:
    name, where = str(data["name"]), cast(Where, data["in"])
    content: Json = data.get("content")
    schema: Json = data.get("schema", {})
    media = is_object(content) and bool(content)
    if media:
        kind, holder = next(iter(content.items()))
        if not is_json(kind):
            raise Unusable(f"its parameter {name[:60]!r} is written as {str(kind)[:60]!r}")
        schema = document.follow(holder, f"the content of {name!r}").get("schema", {})
    style = data.get("style", STYLES[where][0])
    if style not in STYLES[where]:
        raise Unusable(f"its parameter {name[:60]!r} in {where} has the style {str(style)[:30]!r}")
    if where == "header" and not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
        raise Unusable(f"its header {name[:60]!r} has no name that a header can have")
    told = _with_text(schemas.of(schema), data.get("description"))
    required = where == "path" or data.get("required") is True
    own = arguments.add(name, where, told, required=required)
    explode = data.get("explode", style in ("form", "deepObject", "cookie")) is True
    return Parameter(
        own, name, where, str(style), explode, media, data.get("allowReserved") is True
    )


def _check_path(path: str, parameters: Sequence[Parameter]) -> None:
    named = set(re.findall(r"\{([^{}]*)\}", path))
    given = {each.name for each in parameters if each.where == "path"}
    if named != given:
        odd = ", ".join(sorted(named ^ given))
        raise Unusable(f"its path and its path parameters do not name the same: {odd[:120]}")
    if re.search(r"[?#\\]|[^\x21-\x7e]|/\.\.?(/|$)", path):
        raise Unusable("its path holds what no path can")


def _with_text(schema: Json, text: object) -> Json:
    told = shortened(text, TEXT_CHARACTERS)
    if not told or not is_object(schema):
        return {"description": told} if told and schema is True else schema
    return {**schema, "description": told}


# ---- the body


def is_json(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


FORM: Final = "application/x-www-form-urlencoded"


_RANKS: Final = ("json", FORM, "*/*", "application/*", "text/")


def _rank(media_type: str) -> int:
    if is_json(media_type):
        return 0
    return next(
        (rank for rank, kind in enumerate(_RANKS) if media_type.startswith(kind)), len(_RANKS)
    )


def _media(content: Mapping[str, Any]) -> str:
    """The media type in which the body is written: JSON before forms before text."""
    ranks = {kind: _rank(kind.lower()) for kind in content}
    best = min(ranks, key=ranks.__getitem__)
    if ranks[best] < len(_RANKS):
        return best
    listed = ", ".join(content)[:120] or "nothing"
    raise Unusable(f"its body is {listed}; tools send JSON, forms and text")


def _body(
    document: Document, schemas: Schemas, operation: Operation, arguments: _Arguments
) -> Body | None:
    if operation.data.get("requestBody") is None:
        return None
    data = document.follow(operation.data["requestBody"], "its body")
    content: Json = data.get("content")
    if not is_object(content) or not content:
        return None
    kinds = content
    kind = _media(kinds)
    media = document.follow(kinds[kind], "its body's media type")
    schema = schemas.of(media.get("schema", {}))
    required = data.get("required") is True
    media_type = kind if "*" not in kind else "application/json"
    flat = _flat(schemas, schema) if not kind.startswith("text/") else None
    if flat is None or (not required and flat.get("required")):
        told = _with_text(schema, data.get("description"))
        own = arguments.add("body", "body", told, required=required)
        return Body(media_type, required, own, form=_form(media))
    needed: Json = flat["required"]
    fields = {
        arguments.add(name, "body", each, required=name in needed): name
        for name, each in flat["properties"].items()
    }
    extra: Json = flat.get("additionalProperties", False)
    is_open = extra is True or is_object(extra)
    return Body(media_type, required, fields=fields, open=is_open, form=_form(media))


def _flat(schemas: Schemas, schema: Json) -> dict[str, Any] | None:
    """The schema as one object with all its properties, or None where it is more than that."""
    given = schemas.resolved(schema)
    if not is_object(given):
        return None
    made = given
    if is_object(schema) and "$ref" in schema and len(schema) > 1:
        return None
    beyond = made.keys() - {
        "type", "properties", "required", "additionalProperties", "description", "allOf", "default"
    }  # fmt: skip
    if beyond or made.get("type", "object") != "object":
        return None
    parts = [made] if made.get("properties") else []
    for each in made.get("allOf", ()):
        part = _flat(schemas, each)
        if part is None:
            return None
        parts.append(part)
    properties: dict[str, Json] = {}
    required: dict[str, None] = {}
    extra: Json = made.get("additionalProperties", False)
    for part in parts:
        for name, each in part["properties"].items():
            if name in properties and properties[name] != each:
                return None
            properties[name] = each
        required.update(dict.fromkeys(part.get("required") or ()))
        extra = extra or part.get("additionalProperties", False)
    if not properties:
        return None
    required.update(dict.fromkeys(made.get("required") or ()))
    return {"properties": properties, "required": list(required), "additionalProperties": extra}


def _form(media: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    encoding: Json = media.get("encoding")
    return dict(_encodings(encoding)) if is_object(encoding) else {}


def _encodings(encoding: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, bool]]]:
    for name, each in encoding.items():
        if is_object(each):
            told = each
            style = str(told.get("style", "form"))
            if style not in STYLES["query"]:
                raise Unusable(f"its form's {name[:60]!r} has the style {style[:30]!r}")
            yield name, (style, told.get("explode", style in ("form", "deepObject")) is True)
