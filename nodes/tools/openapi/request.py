"""Arguments as a request: each value encoded so that it stays where it was put.

Sources: OpenAPI 3.2, 4.12.6 (styles), RFC 3986 (2.2 and 2.3), RFC 9110 (5.5). What OpenAPI leaves open is
written as most servers read it: objects inside objects with brackets, lists inside them with numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from flowkit.errors import BadArguments
from flowkit.nodes.tools.openapi.document import Json, is_array, is_object
from flowkit.nodes.tools.openapi.shape import FORM, Body, Parameter, Shape, is_json
from flowkit.values import compact

_RESERVED: Final = ":/?@!$'()*,;"
"""What `allowReserved` leaves as it is: not what would end or divide the query."""

_DELIMITERS: Final = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}.get

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request, without credentials. `query` is encoded already."""

    method: str
    url: str
    query: Sequence[Pair]
    headers: Mapping[str, str]
    cookies: Sequence[Pair]
    body: bytes | None

    @property
    def address(self) -> str:
        text = "&".join(f"{name}={value}" for name, value in self.query)
        return f"{self.url}?{text}" if text else self.url


def request_of(
    method: str, base: str, path: str, shape: Shape, arguments: Mapping[str, Any]
) -> Request:
    """The request for arguments that fit the shape's schema.

    Raises:
        BadArguments: a value that cannot stand where it would be put.
    """
    query: list[Pair] = []
    cookies: list[Pair] = []
    headers = {"Accept": "application/json, */*;q=0.5"}
    places: dict[str, str] = {}
    taken: set[str] = set()
    for each in shape.parameters:
        taken.add(each.argument)
        value: Json = arguments.get(each.argument)
        if value is None and each.where != "path":
            continue  # not given, or expressly none
        if each.where == "path":
            places[each.name] = _in_path(each, value)
        elif each.where == "query":
            query += pairs_of(each.name, value, each.style, each)
        elif each.where == "header":
            headers[each.name] = _in_header(each, value)
        else:
            cookies += pairs_of(each.name, value, "form", each)
    body = None
    if shape.body is not None:
        given = _given(shape.body, arguments, taken)
        if given is not None or shape.body.required:
            body = _written(shape.body, given)
            headers["Content-Type"] = shape.body.media_type
    elif method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        body = b""
    filled = re.sub(r"\{([^{}]*)\}", lambda found: places[found[1]], path)
    _check_segments(filled, path)
    return Request(method, f"{base}{filled}", query, headers, cookies, body)


# ---- the path


def _in_path(parameter: Parameter, value: Json) -> str:
    parts = _parts(parameter.argument, value, parameter)
    explode, name = parameter.explode, quote(parameter.name, safe="")
    if parameter.style == "matrix":
        if is_array(value) and not explode:
            return f";{name}={','.join(item for _, item in parts)}"
        if is_object(value) and not explode:
            return f";{name}={','.join(f'{key},{item}' for key, item in parts)}"
        return "".join(f";{key or name}={item}" for key, item in parts)
    between = "." if parameter.style == "label" and explode else ","
    equals = "=" if explode else ","
    text = between.join(f"{key}{equals}{item}" if key else item for key, item in parts)
    return f".{text}" if parameter.style == "label" else text


def _parts(where: str, value: Json, parameter: Parameter) -> Sequence[Pair]:
    """The value's parts, encoded, by the names that they have in an object."""
    if parameter.media:
        return [("", quote(compact(value), safe=""))]
    if is_array(value):
        return [("", _encoded(each)) for each in value]
    if is_object(value):
        return [(quote(key, safe=""), _encoded(each)) for key, each in value.items()]
    return [("", _encoded(value))]


def _check_segments(filled: str, path: str) -> None:
    """Refuse a path that somebody on the way could read as another one.

    Servers and proxies differ in when they decode; so a value may not hold a step up the path in any
    number of encodings, nor be so empty that two slashes meet.
    """
    if (
        filled.count("/") != path.count("/")
        or "//" in filled
        or filled.endswith("/") != path.endswith("/")
    ):
        raise BadArguments(
            f"an argument would leave a part of the path {path} empty: give a value."
        )
    text = filled
    for _ in range(8):
        again = unquote(text)
        steps = (re.sub(r"[\x00-\x20]", "", step) for step in re.split(r"[/\\;]", again))
        if any(step in (".", "..") for step in steps):
            raise BadArguments(
                f"an argument holds a step to another path ('.' or '..'), which is not sent in {path}."
            )
        if again == text:
            return
        text = again
    raise BadArguments(f"an argument is encoded too many times to be sent in {path}.")


# ---- headers, the query and forms


def _in_header(parameter: Parameter, value: Json) -> str:
    if parameter.media:
        text = compact(value)
    elif is_array(value):
        text = ",".join(_text(each) for each in value)
    elif is_object(value):
        equals = "=" if parameter.explode else ","
        items = value.items()
        text = ",".join(f"{key}{equals}{_text(each)}" for key, each in items)
    else:
        text = _text(value)
    if not re.fullmatch(r"[\x20-\x7e]*", text):
        raise BadArguments(
            f"{parameter.argument} goes into a header, where only printable ASCII on one line can stand."
        )
    return text.strip()


def pairs_of(name: str, value: Json, style: str, parameter: Parameter) -> Sequence[Pair]:
    """A value as pairs of a query, a form or cookies, encoded."""
    own = quote(name, safe="[]")
    if parameter.media:
        return [(own, quote(compact(value), safe=""))]
    safe = _RESERVED if parameter.reserved else ""
    if is_array(value):
        items = [_encoded(each, safe) for each in value]
        if style == "deepObject":
            return list(_deep(own, value, safe))
        if parameter.explode:
            return [(own, item) for item in items]
        return [(own, (_DELIMITERS(style) or ",").join(items))]
    if is_object(value):
        if style == "deepObject":
            return list(_deep(own, value, safe))
        parts = [(quote(key, safe=""), _encoded(each, safe)) for key, each in value.items()]
        if parameter.explode:
            return parts
        between = _DELIMITERS(style) or ","
        return [(own, between.join(f"{key}{between}{item}" for key, item in parts))]
    return [(own, _encoded(value, safe))]


def _deep(name: str, value: Json, safe: str) -> Iterator[Pair]:
    if is_object(value):
        for key, each in value.items():
            yield from _deep(f"{name}[{quote(key, safe='')}]", each, safe)
    elif is_array(value):
        for number, each in enumerate(value):
            yield from _deep(f"{name}[{number}]", each, safe)
    elif value is not None:
        yield name, _encoded(value, safe)


def _encoded(value: Json, safe: str = "") -> str:
    return quote(_text(value), safe=safe, errors="replace")


def _text(value: Json) -> str:
    return value if isinstance(value, str) else compact(value)


# ---- the body


def _given(body: Body, arguments: Mapping[str, Any], taken: set[str]) -> Json:
    """The body's value; None where no argument is of it."""
    if body.whole:
        return arguments.get(body.whole)
    found = {
        body.fields.get(name, name): value
        for name, value in arguments.items()
        if name in body.fields or (body.open and name not in taken)
    }
    return found if found or body.required else None


def _written(body: Body, value: Json) -> bytes:
    if is_json(body.media_type):
        return compact(value).encode()
    if not body.media_type.startswith(FORM):
        return _text(value).encode("utf-8", "replace")
    if not is_object(value):
        raise BadArguments("the body is a form: give an object.")
    pairs: list[Pair] = []
    for name, each in value.items():
        style, explode = body.form.get(
            name, ("deepObject", True) if _nested(each) else ("form", True)
        )
        if each is not None:
            pairs += pairs_of(name, each, style, Parameter(name, name, "query", style, explode))
    return "&".join(f"{name}={item}" for name, item in pairs).encode()


def _nested(value: Json) -> bool:
    return is_object(value)
