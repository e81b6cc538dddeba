"""Schemas of an OpenAPI document as JSON Schema 2020-12 for what is sent, each once under `$defs`.

What is said of answers only is left out (`readOnly`), texts are cut, since a stranger wrote them, and
patterns are told but not run: a regular expression can take for ever.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flowkit.nodes.tools.openapi.document import Document, Json, Unusable, is_array, is_object
from flowkit.nodes.tools.schema import SCHEMA_CHARACTERS
from flowkit.values import compact

TEXT_CHARACTERS: Final = 300
"""Of a description inside a schema."""

_KEPT: Final = frozenset({
    "type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
    "maxLength", "minLength", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains",
    "maxProperties", "minProperties", "required", "dependentRequired", "format", "default",
    "contentEncoding", "contentMediaType",
})  # fmt: skip
_ONE: Final = frozenset({
    "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_MANY: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"properties", "dependentSchemas"})
_IN_PLACE: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"}
)


def shortened(text: object, most: int) -> str:
    """A stranger's text on one line, without control and invisible characters, cut."""
    if not isinstance(text, str):
        return ""
    plain = "".join(
        letter if unicodedata.category(letter)[0] != "C" else " " for letter in text[: 4 * most]
    )
    plain = " ".join(plain.split())
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


@dataclass(slots=True)
class _Named:
    """A schema of the document under its name in `$defs`, and the names it mentions."""

    schema: Json
    mentions: set[str]
    in_place: set[str]
    size: int


@dataclass(slots=True)
class Schemas:
    """The schemas of one document, translated as they are asked for."""

    document: Document
    _names: dict[str, str] = field(default_factory=dict[str, str])
    """By reference, and the other way round."""
    _references: dict[str, str] = field(default_factory=dict[str, str])
    _made: dict[str, _Named] = field(default_factory=dict[str, _Named])

    def of(self, schema: Json) -> Json:
        """A schema as it stands in a tool's; its references are among `definitions` of it."""
        if isinstance(schema, bool):
            return schema
        if not is_object(schema):
            raise Unusable(f"a schema is {str(schema)[:60]!r}, and no object")
        given = schema
        if "$dynamicRef" in given:
            raise Unusable("its schemas have $dynamicRef, which is not followed")
        made: dict[str, Json] = {}
        if "$ref" in given:
            made["$ref"] = f"#/$defs/{self._name(str(given['$ref']))}"
            if self.document.is_30:  # there nothing beside a reference counts
                return made
        gone = self._read_only(given)
        for key, value in given.items():
            if key == "required" and is_array(value):
                made[key] = [name for name in value if name not in gone]
            elif key in _KEPT:
                made[key] = value
            else:
                made.update(self._applied(key, value, gone))
        text = shortened(given.get("description"), TEXT_CHARACTERS)
        if isinstance(given.get("pattern"), str):
            text = f"{text} (pattern: {shortened(given['pattern'], 100)})".lstrip()
        if text:
            made["description"] = text
        return _of_30(given, made) if self.document.is_30 else made

    def _applied(self, key: str, value: Json, gone: Collection[str]) -> dict[str, Json]:
        """A keyword with schemas in it; nothing for one that is not kept."""
        if key in _ONE:
            return {key: self.of(value)}
        if key in _MANY and is_array(value):
            return {key: [self.of(each) for each in value]}
        if key in _NAMED and is_object(value):
            return {key: {name: self.of(each) for name, each in value.items() if name not in gone}}
        return {}

    def definitions(self, *schemas: Json) -> dict[str, Json]:
        """What the schemas and their references mention, by name; raises `Unusable` if it is too much."""
        found: dict[str, Json] = {}
        waiting = deque(name for schema in schemas for name in _mentioned(schema))
        room = SCHEMA_CHARACTERS
        while waiting:
            name = waiting.popleft()
            if name in found:
                continue
            each = self._named(name)
            found[name] = each.schema
            waiting.extend(sorted(each.mentions))
            room -= each.size
            if room < 0:
                raise Unusable(f"its schemas have more than {SCHEMA_CHARACTERS:,} characters")
        self._check_grounded(found)
        return found

    def resolved(self, schema: Json) -> Json:
        """A translated schema without a reference at its top."""
        seen: set[str] = set()
        while is_object(schema) and "$ref" in schema:
            name = str(schema["$ref"]).removeprefix("#/$defs/")
            if name in seen:
                raise Unusable(f"the schema {name} is itself and nothing else")
            seen.add(name)
            schema = self._named(name).schema
        return schema

    def _name(self, reference: str) -> str:
        """The name of a referred schema, which is translated when it is needed: chains may be long."""
        if reference not in self._names:
            stem = re.sub(r"[^A-Za-z0-9_.-]", "_", reference.rpartition("/")[2])[:60] or "schema"
            name, number = stem, 1
            while name in self._references:
                number += 1
                name = f"{stem}_{number}"
            self._names[reference] = name
            self._references[name] = reference
        return self._names[reference]

    def _named(self, name: str) -> _Named:
        if name not in self._made:
            schema = self.of(self.document.at(self._references[name]))
            mentions, in_place = set(_mentioned(schema)), set(_mentioned(schema, in_place=True))
            self._made[name] = _Named(schema, mentions, in_place, len(compact(schema)))
        return self._made[name]

    def _read_only(self, schema: Mapping[str, Any]) -> set[str]:
        """The properties that only answers have."""
        found: set[str] = set()
        properties = schema.get("properties")
        for name, each in properties.items() if is_object(properties) else ():
            if is_object(each):
                plain = each
                beside = plain if not ("$ref" in plain and self.document.is_30) else {}
                target = self.document.follow(plain, f"the schema of {name!r}")
                if beside.get("readOnly") is True or target.get("readOnly") is True:
                    found.add(name)
        return found

    def _check_grounded(self, names: Mapping[str, Json]) -> None:
        """Refuse schemas that are what they are: validating against one would never end."""
        done: set[str] = set()
        for first in names:
            path: list[tuple[str, Iterator[str]]] = [(first, iter(self._named(first).in_place))]
            on_path = {first}
            while path and first not in done:
                name, left = path[-1]
                following = next(left, None)
                if following is None:
                    done.add(name)
                    on_path.discard(name)
                    path.pop()
                elif following in on_path:
                    raise Unusable(f"the schema {following} is defined by nothing but itself")
                elif following not in done:
                    on_path.add(following)
                    path.append((following, iter(self._named(following).in_place)))


def _mentioned(schema: Json, *, in_place: bool = False) -> Iterator[str]:
    """The names under `$defs` that a translated schema refers to.

    `in_place`: only where the reference judges the same value as the schema itself.
    """
    if is_array(schema):
        for each in schema:
            yield from _mentioned(each, in_place=in_place)
        return
    for key, value in schema.items() if is_object(schema) else ():
        if key == "$ref":
            yield str(value).removeprefix("#/$defs/")
        elif key in _NAMED:
            for each in value.values() if key in _IN_PLACE or not in_place else ():
                yield from _mentioned(each, in_place=in_place)
        elif key in _IN_PLACE or (key in _ONE | _MANY and not in_place):
            yield from _mentioned(value, in_place=in_place)


def _of_30(given: Mapping[str, Any], made: dict[str, Json]) -> Json:
    """What OpenAPI 3.0 says in words of its own: `nullable`, and limits that are switches."""
    for key, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(key), bool):
            switched = made.pop(key)
            if switched and limit in made:
                made[key] = made.pop(limit)
    if given.get("nullable") is not True:
        return made
    if is_array(made.get("enum")) and None not in made["enum"]:
        made["enum"] = [*made["enum"], None]
    if isinstance(made.get("type"), str):
        return {**made, "type": [made["type"], "null"]}
    return {"anyOf": [made, {"type": "null"}]} if made.keys() & _IN_PLACE else made
