"""Which declared type fits where: by table, by laws, and by what pydantic says."""

from __future__ import annotations

import collections
import enum
from collections.abc import Collection, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Optional,
    Protocol,
    TypeVar,
    Union,
)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from flowkit.fits import fits

T = TypeVar("T")


class Page(BaseModel):
    text: str


class LongPage(Page):
    chapters: int = 1


class Box(BaseModel, Generic[T]):
    item: T


class Unlike(BaseModel):
    text: str


@dataclass
class Pair(Generic[T]):
    left: T
    right: T


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Shape(enum.Enum):
    ROUND = 1


class Row(TypedDict):
    n: int


class LongRow(Row):
    text: str


class Alike(TypedDict):
    n: int


class Loose(TypedDict):
    n: NotRequired[int]


class Wrong(TypedDict):
    n: str


class Named(Protocol):
    name: str


class Pages(list[Page]):
    """A list that fixed its parameter."""


PageId = NewType("PageId", int)
Short = Annotated[str, Field(max_length=3)]

FITS: list[tuple[Any, Any]] = [
    # the same, and what says the same in other words
    (int, int),
    (None, type(None)),
    (Optional[int], int | None),  # noqa: UP045
    (Union[int, str], str | int),  # noqa: UP007
    (Annotated[int, "doc"], int),
    (int, Annotated[int, Field(gt=0)]),
    (Short, str),
    (PageId, int),
    (int, PageId),
    (list[int], "a name that was not resolved"),
    # subclasses
    (LongPage, Page),
    (bool, int),
    (Colour, str),
    (Level, int),
    (datetime, date),
    (collections.OrderedDict[str, int], dict[str, int]),
    (Page, BaseModel),
    (Pages, list[Page]),
    # numbers widen
    (int, float),
    (bool, float),
    (Level, float),
    (int, complex),
    (bool, complex),
    (float, complex),
    # unions
    (int, int | str),
    (int, float | None),
    (int | str, int | str | None),
    (LongPage | None, Page | None),
    (None, int | None),
    (bool | int, float),
    (list[int] | None, Sequence[int] | None),
    # containers
    (list[LongPage], list[Page]),
    (list[int], list[float]),
    (list[int], Sequence[int]),
    (list[int], Iterable[int]),
    (list[int], Collection[int]),
    (list[int], MutableSequence[int]),
    (list[int], list),
    (list, list[int]),
    (dict[str, int], Mapping[str, float]),
    (dict[str, list[LongPage]], dict[str, Sequence[Page]]),
    (set[int], frozenset[int] | set[float]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, int], tuple[float, ...]),
    (tuple[int, ...], tuple[float, ...]),
    (tuple[int, str], Sequence[int | str]),
    (tuple[int, ...], Sequence[int]),
    (tuple[()], tuple[int, ...]),
    (tuple[()], tuple[()]),
    (list[list[list[bool]]], Sequence[Sequence[Sequence[float]]]),
    # literals and enums
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", 1], str | int),
    (Literal[1], float),
    (Literal["a"], Literal["a"] | None),
    (Literal["a", "b"], Literal["a"] | Literal["b"]),  # noqa: PYI030
    (Colour, Colour),
    # generics
    (Box[int], Box[int]),
    (Box[int], Box),
    (Pair[int], Pair[float]),
    (Pair[int], Pair),
    # typed dictionaries, by their fields
    (Row, Row),
    (LongRow, Row),
    (Alike, Row),
    (Row, Loose),
    (Row, dict),
    (Row, dict[str, Any]),
    (Row, Mapping[str, Any]),
    (list[LongRow], Sequence[Row]),
    # what cannot be judged
    (Any, int),
    (int, Any),
    (Any, Any),
    (list[Any], list[int]),
    (list[int], list[Any]),
    (T, int),
    (int, T),
    (Page, Named),
    (int, object),
    (None, object),
]

DOES_NOT_FIT: list[tuple[Any, Any]] = [
    (Page, LongPage),
    (Page, Unlike),
    (BaseModel, Page),
    (object, int),
    (int, str),
    (str, int),
    (int, bool),
    (float, int),
    (complex, float),
    (str, Colour),
    (int, Level),
    (Shape, int),
    (date, datetime),
    (Decimal, float),
    (int, Decimal),
    (str, bytes),
    (int, None),
    (None, int),
    (int | None, int),
    (int | str, int),
    (int | str | None, int | str),
    (Page, int | str),
    (list[int], int),
    (int, list[int]),
    (list[float], list[int]),
    (list[Page], list[LongPage]),
    (list[int | None], list[int]),
    (Sequence[int], list[int]),
    (Iterable[int], Sequence[int]),
    (str, Sequence[str]),
    (bytes, Sequence[int]),
    (str, Iterable[str]),
    (str, list[str]),
    (list[int], set[int]),
    (set[int], list[int]),
    (frozenset[int], set[int]),
    (list[int], tuple[int, ...]),
    (tuple[int, ...], list[int]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, int], tuple[int]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int, ...]),
    (tuple[int, str], Sequence[int]),
    (tuple[()], tuple[int]),
    (tuple[int], tuple[()]),
    (tuple[int, ...], tuple[()]),
    (dict[str, int], dict[str, str]),
    (dict[str, int], dict[int, int]),
    (dict[str, int], list[str]),
    (Mapping[str, int], dict[str, int]),
    (Literal["a", "b"], Literal["a"]),
    (Literal["a", 1], str),
    (str, Literal["a"]),
    (Literal[1], Literal["1"]),
    (Literal[1], Literal[True]),
    (Literal[0], bool),
    (Box[int], Box[str]),
    (Pair[int], Pair[str]),
    (Row, LongRow),
    (Row, Wrong),
    (Loose, Row),
    (dict[str, int], Row),
    (Row, Page),
    (Page, Row),
    (Row, list[Any]),
]


@pytest.mark.parametrize(("mine", "yours"), FITS, ids=str)
def test_fits(mine: Any, yours: Any) -> None:
    assert fits(mine, yours)


@pytest.mark.parametrize(("mine", "yours"), DOES_NOT_FIT, ids=str)
def test_does_not_fit(mine: Any, yours: Any) -> None:
    assert not fits(mine, yours)


# ---- laws, on generated types ----

LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    str: st.text(),
    bytes: st.binary(),
    None: st.none(),
    Literal["a"]: st.just("a"),
    Literal["a", "b"]: st.sampled_from("ab"),
    Colour: st.just(Colour.RED),
    Page: st.builds(Page, text=st.text()),
    LongPage: st.builds(LongPage, text=st.text(), chapters=st.integers()),
}

Typed = tuple[Any, st.SearchStrategy[Any]]
"""A type, and its values."""


def listed(item: Typed) -> Typed:
    return list[item[0]], st.lists(item[1], max_size=3)


def sequenced(item: Typed) -> Typed:
    return Sequence[item[0]], st.lists(item[1], max_size=3)


def tupled(item: Typed) -> Typed:
    return tuple[item[0], ...], st.lists(item[1], max_size=3).map(tuple)


def paired(items: tuple[Typed, Typed]) -> Typed:
    (first, left), (second, right) = items
    return tuple[first, second], st.tuples(left, right)


def mapped(item: Typed) -> Typed:
    return dict[str, item[0]], st.dictionaries(st.text(max_size=3), item[1], max_size=3)


def either(items: tuple[Typed, Typed]) -> Typed:
    (first, left), (second, right) = items
    return Union[first, second], st.one_of(left, right)  # noqa: UP007


def wider(item: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    two = st.tuples(item, item)
    return st.one_of(
        *(item.map(make) for make in (listed, sequenced, tupled, mapped)),
        *(two.map(make) for make in (paired, either)),
    )


typed = st.recursive(st.sampled_from(list(LEAVES.items())), wider, max_leaves=4)
small = st.recursive(
    st.sampled_from([each for each in LEAVES.items() if each[0] in (int, bool, float, None)]),
    wider,
    max_leaves=3,
)


@given(typed)
def test_every_type_fits_itself(one: Typed) -> None:
    assert fits(one[0], one[0])


@given(typed)
def test_every_type_fits_any_object_and_its_union(one: Typed) -> None:
    hint = one[0]
    for wanted in (Any, object, Optional[hint], Union[Page, hint], Annotated[hint, "doc"]):  # noqa: UP007, UP045
        assert fits(hint, wanted)
    assert fits(list[hint], Sequence[hint])
    assert fits(tuple[hint, hint], tuple[hint, ...])


@given(small, small, small)
@settings(max_examples=400)
def test_fitting_is_transitive(a: Typed, b: Typed, c: Typed) -> None:
    if fits(a[0], b[0]) and fits(b[0], c[0]):
        assert fits(a[0], c[0])


@given(typed, typed)
def test_a_union_fits_as_its_members_do(a: Typed, b: Typed) -> None:
    union = Union[a[0], b[0]]  # noqa: UP007
    for wanted in (a[0], b[0], int, Sequence[int]):
        assert fits(union, wanted) == (fits(a[0], wanted) and fits(b[0], wanted))


@given(typed, typed)
def test_containers_fit_as_their_items_do(a: Typed, b: Typed) -> None:
    inside = fits(a[0], b[0])
    assert fits(list[a[0]], Sequence[b[0]]) == inside
    assert fits(dict[str, a[0]], Mapping[str, b[0]]) == inside
    assert fits(tuple[a[0], ...], tuple[b[0], ...]) == inside


@given(st.one_of(st.tuples(typed, typed), st.tuples(small, small)), st.data())
@settings(max_examples=400)
def test_pydantic_takes_the_values_of_a_type_that_fits(
    pair: tuple[Typed, Typed], data: st.DataObject
) -> None:
    (mine, values), (yours, _) = pair
    if fits(mine, yours):
        TypeAdapter(yours).validate_python(data.draw(values))
