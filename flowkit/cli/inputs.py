"""`--input`: JSON, key=value, @file or - (stdin), checked against the type that the workflow takes."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from pydantic import TypeAdapter, ValidationError

from flowkit.cli.exits import Problem, say
from flowkit.cli.targets import Target
from flowkit.cli.text import clean
from flowkit.policy import Budget
from flowkit.values import Codec, show_type

_FIELD = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*)=(.*)", re.DOTALL)

_BUDGET = re.compile(r"Budget\((.*?)\):?")

_ERRORS_MAX = 20
_DEPTH_MAX = 8  # a schema may refer to itself


def read_input(target: Target, given: Sequence[str], *, example: bool = False) -> Any:
    """The workflow's input: what `--input` says, over the example if that is asked for."""
    codec = target.workflow.codec()
    schema = codec.schema()
    properties = _properties(schema, schema)
    base: Any = {} if properties is not None else None
    known = False
    if example:
        base, known = _example(target, codec), True
    for text in given:
        found = _FIELD.fullmatch(text) if properties is not None else None
        if found and isinstance(base, dict):
            _set(cast("dict[str, Any]", base), found[1], found[2], schema)
        else:
            if known:
                raise Problem("--input gives a whole input twice; add to the first with key=value.")
            if base:
                raise Problem(
                    "--input gives a whole input after key=value, which would be dropped: give the whole one "
                    "first."
                )
            base, known = (
                read_json(text, "--input", plain_text=schema.get("type") == "string"),
                True,
            )
    if not given and not example and (properties is None or not _accepts(codec, base)):
        raise Problem(_how(target, properties))
    value = check_json(codec, base, f"--input does not fit {show_type(target.workflow.takes)}")
    for line in _ignored(codec, base, schema):
        say(line)
    return value


def _ignored(codec: Codec, data: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key that a model without `extra="forbid"` drops without a word."""
    kept = codec.dump(codec.load(json.dumps(data))).text
    for path, fields in list(_strange(data, schema, schema, ())):
        without = copy.deepcopy(data)
        level = without
        for part in path[:-1]:
            level = level[part]
        del level[path[-1]]
        try:
            same = codec.dump(codec.load(json.dumps(without))).text == kept
        except (ValueError, RecursionError):
            same = False
        if same:  # else it is an alias, or a validator reads it
            name = ".".join(str(part) for part in path)
            yield f"--input: the key {name!r} is ignored, there is no such field{nearest(str(path[-1]), fields)}"


def _strange(
    data: Any, spot: Mapping[str, Any], schema: Mapping[str, Any], path: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], list[str]]]:
    """The paths of keys that the schema has no field for, and the fields that are there."""
    spot = _resolved(spot, schema)
    if len(path) > _DEPTH_MAX:
        return
    if isinstance(data, list):
        for index, item in enumerate(cast("list[object]", data)):
            yield from _strange(item, spot.get("items", {}), schema, (*path, index))
    fields = _properties(spot, schema)
    if isinstance(data, dict) and fields and "additionalProperties" not in spot:
        for key, item in cast("dict[str, Any]", data).items():
            if key not in fields:
                yield (*path, key), list(fields)
            else:
                yield from _strange(item, fields[key], schema, (*path, key))


def nearest(name: str, names: Sequence[str]) -> str:
    """`: did you mean x?`, or which names there are."""
    near = difflib.get_close_matches(name, names, n=3)
    return f": did you mean {', '.join(near)}?" if near else f" ({', '.join(names)})."


def read_budget(text: str) -> Budget:
    """`turns_max=20,on_budget=answer` as a budget; `Problem` for what is none."""
    names = [each.name for each in dataclasses.fields(Budget)]
    given: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or not value:
            raise Problem(f"--budget: {clean(part, 60)!r} is no NAME=VALUE.")
        if name not in names:
            raise Problem(f"--budget: there is no limit {clean(name, 60)!r}{nearest(name, names)}")
        given[name] = value
    try:
        return TypeAdapter(Budget).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # a limit's own rule, which names it
            text = _BUDGET.sub(r"\1", first["msg"].removeprefix("Value error, "))
            raise Problem(f"--budget: {text}") from error
        refuse(error, "--budget cannot be that")


def _example(target: Target, codec: Codec) -> Any:
    try:
        return json.loads(codec.dump(codec.check(target.example)).text or "null")
    except ValidationError as error:
        refuse(error, f"{target.text}: EXAMPLE does not fit {show_type(target.workflow.takes)}")


def check_json(codec: Codec, data: Any, complaint: str) -> Any:
    """Plain data as a typed value; `Problem` with pydantic's message and the field's path."""
    try:
        return codec.load(json.dumps(data))
    except ValidationError as error:
        refuse(error, complaint)
    except (ValueError, RecursionError) as error:
        raise Problem(f"{complaint}: {error}") from error


def refuse(error: ValidationError, complaint: str) -> NoReturn:
    """Pydantic's errors, a line each, with the path of the field."""
    lines = [f"{complaint}:"]
    for each in error.errors(include_url=False, include_context=False)[:_ERRORS_MAX]:
        path = ".".join(str(part) for part in each["loc"]) or "input"
        got = "" if each["type"] == "missing" else f" (got {clean(repr(each['input']), 80)})"
        lines.append(f"  {path}: {each['msg']}{got}")
    raise Problem("\n".join(lines)) from error


def read_json(text: str, what: str, *, plain_text: bool = False) -> Any:
    """The data of a JSON text, of @file or of - (stdin); with `plain_text` anything else is a text."""
    whole = text
    if text == "-" or text.startswith("@"):
        whole = _read(text, what)
    try:
        whole.encode()
        return json.loads(whole, parse_constant=_no_constant)
    except UnicodeEncodeError as error:
        raise Problem(f"{what}: the text is not valid UTF-8.") from error
    except RecursionError as error:
        raise Problem(f"{what}: the JSON is nested too deep.") from error
    except ValueError as error:
        if plain_text:
            return whole
        pairs = "key=value, " if what == "--input" else ""
        hint = "" if whole is not text else f" Write JSON, {pairs}@file.json, or - for stdin."
        name = "stdin" if text == "-" else repr(clean(text, 60))
        if whole is not text and not whole.strip():
            raise Problem(f"{what}: {name} is empty: there should be JSON in it.") from error
        raise Problem(f"{what}: {name} is not JSON: {error}.{hint}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read(text: str, what: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if text == "-" else Path(text[1:]).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise Problem(f"{what}: cannot read {text[1:] or text!r}: {error.strerror}.") from error
    except ValueError as error:  # no UTF-8; a NUL in the path
        raise Problem(f"{what}: cannot read {clean(text, 60)!r}: {error}.") from error


def _accepts(codec: Codec, data: Any) -> bool:
    try:
        codec.load(json.dumps(data))
    except (ValueError, RecursionError):
        return False
    return True


def _set(base: dict[str, Any], path: str, text: str, schema: Mapping[str, Any]) -> None:
    """Put one key=value into the data: as a text where the schema takes one, else as JSON."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Problem(f"--input {path}: the text is not valid UTF-8.") from error
    *outer, last = path.split(".")
    level, spot = base, schema
    for part in outer:
        spot = (_properties(spot, schema) or {}).get(part, {})
        inner: object = level.setdefault(part, {})
        if not isinstance(inner, dict):
            raise Problem(f"--input {path}: {part!r} is no object that could have fields.")
        level = cast("dict[str, Any]", inner)
    level[last] = _value(text, (_properties(spot, schema) or {}).get(last, {}), schema)


def _value(text: str, spot: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    kinds = _types(spot, schema)
    if "string" in kinds and not ("null" in kinds and text == "null"):
        return text
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _types(spot: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> set[str]:
    """The JSON types that a schema takes, as far as it says."""
    spot = _resolved(spot, schema)
    found: set[str] = set()
    match spot.get("type"):
        case str(kind):
            found.add(kind)
        case list():
            found.update(str(kind) for kind in cast("list[object]", spot["type"]))
        case _:
            values = [*spot.get("enum", ()), *([spot["const"]] if "const" in spot else [])]
            if any(isinstance(value, str) for value in values):
                found.add("string")
    for way in ("anyOf", "oneOf", "allOf"):
        for each in spot.get(way, ()) if depth < _DEPTH_MAX else ():
            found |= _types(each, schema, depth + 1)
    return found


def _properties(
    spot: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0
) -> Mapping[str, Any] | None:
    """The fields of an object's schema; None for what is no object."""
    spot = _resolved(spot, schema)
    if "properties" in spot or spot.get("type") == "object":
        return cast("Mapping[str, Any]", spot.get("properties", {}))
    for way in ("anyOf", "oneOf", "allOf"):
        for each in spot.get(way, ()) if depth < _DEPTH_MAX else ():
            found = _properties(each, schema, depth + 1)
            if found is not None:
                return found
    return None


def _resolved(spot: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(20):
        name = spot.get("$ref")
        if not isinstance(name, str):
            break
        spot = cast("Mapping[str, Any]", schema.get("$defs", {}).get(name.rpartition("/")[2], {}))
    return spot


def _how(target: Target, fields: Mapping[str, Any] | None) -> str:
    takes = show_type(target.workflow.takes)
    schema = target.workflow.codec().schema()
    required = set(cast("list[str]", _resolved(schema, schema).get("required", [])))
    names = [name + ("" if name in required else "?") for name in fields or {}]
    listed = f" ({', '.join(names)})" if names else ""
    example = " or --example" if hasattr(target.module, "EXAMPLE") else ""
    return f"{target.text} needs an input of type {takes}{listed}: give --input{example}."
