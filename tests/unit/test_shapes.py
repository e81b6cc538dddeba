"""Shapes: a dataclass becomes JSON and back exactly as pydantic itself would have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, cast, get_args

import pytest
from pydantic import Field, TypeAdapter, ValidationError

import flowkit.events as ev
from flowkit.store.shapes import Shape, core_schema_of


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str
    tree: Leaf2 | None = None


@dataclass(frozen=True)
class Leaf2:
    at: datetime
    many: list[dict[str, int]] = field(default_factory=list[dict[str, int]])


@dataclass(frozen=True, slots=True)
class Anything:
    """Every form that the shapes know, and some that pydantic must look at."""

    leaf: Leaf
    count: int
    share: float = 0.5
    sure: bool = False
    how: Literal["a", "b", 3] = "a"
    few: tuple[Leaf, ...] = ()
    pair: tuple[int, str] = (1, "x")
    named: Mapping[str, Leaf] = field(default_factory=dict[str, Leaf])
    maybe: int | None = None
    either: int | str | None = None
    above: Annotated[int, Field(gt=3)] = 4
    data: Any = None
    later: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("thirteen")


FULL: dict[str, Any] = {
    "leaf": {"name": "l", "tree": {"at": "2026-01-02T03:04:05Z", "many": [{"a": 1}]}},
    "count": 1, "share": 1.5, "sure": True, "how": 3, "few": [{"name": "x"}], "pair": [2, "y"],
    "named": {"z": {"name": "n"}}, "maybe": 1, "either": "e", "above": 5, "data": [None, {}],
    "later": "l",
}  # fmt: skip

ODD: list[Any] = [None, 1, "1", "x", 2.5, True, [], {}, [1], "b"]

CHANGED: list[dict[str, Any]] = [
    {},
    *({name: value} for name in FULL for value in ODD),
    {"count": 13},
    {"more": 1},
    {"leaf": {"name": "l", "tree": {"at": "x"}}},
    {"few": [{"name": 1}]},
    {"above": 2},
]


@pytest.mark.parametrize("change", CHANGED, ids=str)
def test_a_shape_accepts_and_refuses_what_pydantic_does(change: dict[str, Any]) -> None:
    shape, pydantic = Shape(Anything), TypeAdapter(Anything)
    text = TypeAdapter(Any).dump_json(FULL | change).decode()
    found, wanted = _loaded(shape.load, text), _loaded(pydantic.validate_json, text)
    assert found == wanted
    if isinstance(wanted, Anything):
        assert shape.check(pydantic.dump_python(wanted)) == wanted
        assert shape.dump(wanted) == pydantic.dump_json(wanted, exclude_defaults=True).decode()
        left = pydantic.dump_python(wanted, mode="json", exclude_defaults=True, exclude={"count"})
        assert shape.plain(wanted, "count") == left


def _loaded(load: Callable[[str], Any], text: str) -> Any:
    """The value, or why there is none."""
    try:
        return load(text)
    except ValidationError as error:
        return str(error)


def bare(schema: Any) -> Any:
    """A schema without what has no effect here: names, settings as they are by default."""
    match schema:
        case dict():
            found = cast("dict[str, Any]", schema)
            idle = ("ref", "metadata", "config", "frozen", "computed_fields")
            return {
                key: bare(each)
                for key, each in found.items()
                if key not in idle and each not in (None, False) and (key, each) != ("init", True)
            }
        case list():
            return [bare(each) for each in cast("list[Any]", schema)]
        case _:
            return schema


@pytest.mark.parametrize("payload", get_args(ev.Payload))
def test_the_shape_of_an_event_is_what_pydantic_finds(payload: type[Any]) -> None:
    assert bare(core_schema_of(payload)) == bare(TypeAdapter(payload).core_schema)
