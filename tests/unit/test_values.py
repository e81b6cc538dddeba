"""Values: what is stored is given back the same, and what could not be is refused with its path."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    ValidationError,
    computed_field,
)

from flowkit.errors import DeclarationError, ValueRefused
from flowkit.values import Artifact, Codec, Value, combine, compact, digest, parse, show_type


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    name: str
    at: datetime | None = None
    price: Decimal = Decimal(0)
    weights: dict[int, float] = {}


class Tree(BaseModel):
    leaves: list[Leaf] = []
    colours: set[Colour] = set()
    below: Tree | None = None
    either: int | str | None = None
    of: tuple[int, str] = (0, "")


@dataclass
class Point:
    x: float
    tags: frozenset[str] = field(default_factory=frozenset[str])


class Loose(BaseModel):
    data: Any = None
    number: float | None = None
    numbers: list[float] = []


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Any = None
    others: dict[str, Any] = {}


def there_and_back(hint: Any, value: Any) -> Any:
    """What a reader gets; the stored text is JSON that any database takes."""
    codec = Codec(hint, "node")
    stored = codec.dump(value)
    assert stored.text is not None
    stored.text.encode("utf-8")
    assert "\x00" not in stored.text
    assert stored.digest == digest(stored.text)
    assert stored.size == len(stored.text)
    return codec.load(stored.text)


def refused(hint: Any, value: Any, *parts: str) -> str:
    """The message with which a value is refused, in less than a second."""
    began = time.thread_time()  # what others do on this machine does not count
    with pytest.raises(ValueRefused) as caught:
        Codec(hint, "node").dump(value)
    assert time.thread_time() - began < 1
    message = str(caught.value)
    for part in parts:
        assert part in message
    return message


# ---- load(dump(x)) == x ----

any_text = st.text(alphabet=st.characters(), max_size=8)  # with surrogates and U+0000
some_floats = st.floats(allow_nan=False, allow_infinity=False)
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-3, minutes=-30))])
moments = st.datetimes(timezones=zones)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
leaves = st.builds(
    Leaf,
    name=any_text,
    at=st.none() | moments,
    price=decimals,
    weights=st.dictionaries(st.integers(), some_floats, max_size=3),
)
trees = st.recursive(
    st.builds(Tree),
    lambda below: st.builds(
        Tree,
        leaves=st.lists(leaves, max_size=2),
        colours=st.sets(st.sampled_from(Colour)),
        below=st.none() | below,
        either=st.none() | st.integers() | any_text,
        of=st.tuples(st.integers(), any_text),
    ),
    max_leaves=4,
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | some_floats | any_text,
    lambda item: (
        st.lists(item, max_size=4)
        | st.dictionaries(st.text(max_size=5), item, max_size=4)  # no surrogates: they are keys
    ),
    max_leaves=12,
)

TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, any_text),
    (int, st.integers() | st.sampled_from([2**53, 2**63, -(2**63) - 1, 2**64, 10**40])),
    (float, some_floats),
    (bool, st.booleans()),
    (None, st.none()),
    (bytes, st.text(max_size=5).map(str.encode)),
    (Decimal, decimals),
    (datetime, moments),
    (date, st.dates()),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Path, st.just(Path("a/b"))),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (list[str], st.lists(any_text, max_size=4)),
    (Sequence[int], st.lists(st.integers(), max_size=4)),
    (set[int], st.sets(st.integers(), max_size=4)),
    (frozenset[str], st.frozensets(any_text, max_size=4)),
    (tuple[int, ...], st.lists(st.integers(), max_size=4).map(tuple)),
    (tuple[int, str, None], st.tuples(st.integers(), any_text, st.none())),
    (dict[str, list[int]], st.dictionaries(st.text(), st.lists(st.integers()), max_size=3)),
    (dict[int, str], st.dictionaries(st.integers(), any_text, max_size=3)),
    (dict[bool, float], st.dictionaries(st.booleans(), some_floats)),
    (dict[date, Decimal], st.dictionaries(st.dates(), decimals, max_size=3)),
    (int | None, st.none() | st.integers()),
    (int | str, st.integers() | any_text),
    (int | float | bool | str, st.integers() | some_floats | st.booleans() | any_text),
    (list[int | None] | dict[str, int], st.lists(st.none() | st.integers(), max_size=3)),
    (Leaf, leaves),
    (Tree, trees),
    (list[Tree | Leaf], st.lists(trees | leaves, max_size=3)),
    (Point, st.builds(Point, x=some_floats, tags=st.frozensets(any_text, max_size=3))),
    (Any, json_like),
    (dict[str, Any], st.dictionaries(st.text(max_size=4), json_like, max_size=3)),
]


@pytest.mark.parametrize(("hint", "values"), TYPED, ids=lambda each: str(each)[:40])
def test_what_is_stored_is_given_back_the_same(hint: Any, values: st.SearchStrategy[Any]) -> None:
    @given(values)
    def check(value: Any) -> None:
        back = there_and_back(hint, value)
        assert back == value
        assert type(back) is type(value)

    check()


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "a\x00b",
        "\ud800",
        "\udfff x",
        "\U0001f600",
        "\u2028",
        '"\\',
    ],
)
def test_odd_characters_are_kept(text: str) -> None:
    assert there_and_back(str, text) == text
    assert there_and_back(list[str], [text, "plain"]) == [text, "plain"]
    assert there_and_back(Any, {"a": text}) == {"a": text}
    assert there_and_back(Loose, Loose(data=[text])).data == [text]


@given(some_floats)
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
def test_floats_are_kept_to_the_bit(number: float) -> None:
    back = there_and_back(float, number)
    assert (back, math.copysign(1, back)) == (number, math.copysign(1, number))


def test_readers_of_any_get_json() -> None:
    # Where nothing is declared, what is read is what JSON can say; it is so before a crash, too.
    assert there_and_back(Any, (1, 2)) == [1, 2]
    assert there_and_back(Any, {1: "a"}) == {"1": "a"}
    assert there_and_back(Any, Leaf(name="x"))["name"] == "x"
    assert there_and_back(Any, date(2020, 1, 2)) == "2020-01-02"


def test_bytes_are_text_in_utf8_and_nothing_else() -> None:
    assert there_and_back(bytes, "grüß".encode()) == "grüß".encode()
    refused(list[bytes], [b"a", b"\xff\xfe"], "node[1]", "bytes", "ctx.artifact(...)")


def test_an_artifact_is_a_value() -> None:
    made = Artifact("0" * 64, "../name", "text/plain", 3)
    assert there_and_back(Artifact, made) == made


# ---- what is refused, with its path ----


NOT_JSON: list[tuple[Any, Callable[[float], Any], str]] = [
    (float, lambda x: x, "node: "),
    (list[float], lambda x: [0.0, x], "node[1]: "),
    (float | None, lambda x: x, "node: "),
    (dict[str, list[float]], lambda x: {"a": [], "b": [1.0, x]}, "node.b[1]: "),
    (tuple[float, str], lambda x: (x, ""), "node[0]: "),
    (Any, lambda x: {"a": {"b": x}}, "node.a.b: "),
    (Loose, lambda x: Loose(number=x), "node.number: "),
    (Loose, lambda x: Loose(numbers=[1.0, x]), "node.numbers[1]: "),
    (Loose, lambda x: Loose(data={"a": [None, (x,)]}), "node.data.a[1][0]: "),
    (list[Loose | None], lambda x: [None, Loose(number=x)], "node[1].number: "),
    (Point, lambda x: Point(x), "node.x: "),
    (set[float], lambda x: {x}, "node[0]: "),
]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("hint", "make", "path"), NOT_JSON)
def test_numbers_that_are_not_json_are_refused(
    hint: Any, make: Callable[[float], Any], path: str, number: float
) -> None:
    assert refused(hint, make(number), f"{number} is not JSON", "None").startswith(path)


def test_texts_that_look_like_such_numbers_are_kept() -> None:
    for text in ("NaN", "Infinity", "-Infinity", "null"):
        assert there_and_back(Any, [text, None, {text: None}]) == [text, None, {text: None}]


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN")])
def test_decimals_that_are_no_numbers_are_refused(value: Decimal) -> None:
    refused(list[Decimal], [Decimal(1), value], "node[1]", "Decimal")


@pytest.mark.parametrize(
    ("hint", "value", "path", "kind"),
    [
        (Any, object(), "node: ", "object"),
        (Any, {"a": [1, object()]}, "node.a[1]: ", "object"),
        (Any, [0, (1, len)], "node[1][1]: ", "builtin_function_or_method"),
        (Any, int, "node: ", "type"),
        (Holder, Holder(thing=object()), "node.thing: ", "object"),
        (Holder, Holder(others={"x": {"y": [object()]}}), "node.others.x.y[0]: ", "object"),
        (list[Holder], [Holder(), Holder(thing=iter)], "node[1].thing: ", "builtin"),
        (Any, Point(1.0, frozenset([object()])), "node.tags", ""),  # pyright: ignore[reportArgumentType]
        (list[int], [1, "x"], "node", ""),
        (int, "x", "node", "str"),
        (Leaf, Tree(), "node", "Tree"),
        (dict[tuple[int, int], str], {(1, 2): "x"}, "node", "read again"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_path(
    hint: Any, value: Any, path: str, kind: str
) -> None:
    message = refused(hint, value, kind, "cannot be stored", "ctx.artifact(...)")
    assert message.startswith(path)


@pytest.mark.parametrize(
    "value", [{"\ud800": 1}, {"a": {"\ud800x": {}}}, {"\ud800": "\x00"}, [{"\udfff": "\ufffd"}]]
)
def test_half_characters_in_keys_are_refused(value: Any) -> None:
    assert refused(Any, value).startswith("node")
    if isinstance(value, dict):
        assert refused(dict[str, Any], value).startswith("node.")


def test_integers_that_no_reader_parses_are_refused() -> None:
    refused(int, 10**5000, "node: ", "int", "cannot be stored")


def test_a_character_in_two_halves_is_refused() -> None:
    refused(str, "\ud83d\ude00", "changes when it is stored and read again")


def test_replacement_characters_in_keys_are_kept() -> None:
    data = {"\ufffd": ["\ufffd", (1, 2), "\ud800"]}
    assert there_and_back(dict[str, Any], data) == {"\ufffd": ["\ufffd", [1, 2], "\ud800"]}


def nested(depth: int, inside: Any = None) -> list[Any]:
    value: list[Any] = [inside]
    for _ in range(depth - 1):
        value = [value]
    return value


def test_what_is_too_deep_is_refused_quickly() -> None:
    assert there_and_back(Any, nested(150)) == nested(150)
    for depth in (300, 1_000, 100_000):
        refused(Any, nested(depth), "node[0][0]", "cannot be stored")
        refused(Loose, Loose(data={"a": nested(depth)}), "node.data.a[0]", "cannot be stored")
    wide = [nested(5) for _ in range(5_000)]
    refused(Any, [*wide, nested(300)], "node", "cannot be stored")


def test_models_that_are_too_deep_are_refused_quickly() -> None:
    tree = Tree()
    for _ in range(400):
        tree = Tree(below=tree)
    refused(Tree, tree, "node.below.below", "cannot be stored")


def test_what_holds_itself_is_refused_quickly() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    refused(Any, ring, "node", "ircular")
    table: dict[str, Any] = {"a": {}}
    table["a"]["b"] = table
    refused(dict[str, Any], table, "node.a.b", "ircular")
    model = Loose()
    model.data = [model]
    refused(Loose, model, "node.data[0]", "ircular")


def test_a_bad_part_of_a_large_value_is_found_quickly() -> None:
    rows: list[dict[str, Any]] = [{"n": n, "cells": [str(n)] * 3} for n in range(20_000)]
    rows[17_000]["cells"] = [object()]
    refused(list[Any], rows, "node[17000].cells[0]: ")


class Doubling(BaseModel):
    """Its validator and its serialiser do not agree."""

    n: Annotated[int, BeforeValidator(lambda n: n * 2)] = 0


Lossy = Annotated[str, PlainSerializer(lambda text: text[:3])]


def test_what_changes_when_it_is_read_again_is_refused() -> None:
    message = refused(Doubling, Doubling(n=1), "changes when it is stored and read again")
    assert '{"n":2} became {"n":4}' in message
    assert "serialiser and validator agree" in message


def test_what_a_serialiser_leaves_out_stays_out() -> None:
    # It is the author's word on what a value is; and a second reading gives the same as the first.
    assert there_and_back(Lossy, "abcdef") == "abc"


class Opaque:
    """Nothing that pydantic knows."""


class Odd:
    """A type of the user's own, which can be compared with nothing."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth of this is ambiguous")

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema as cs

        return cs.no_info_after_validator_function(
            cls.make, cs.union_schema([cs.str_schema(), cs.is_instance_schema(cls)]),
            serialization=cs.plain_serializer_function_ser_schema(lambda odd: odd.text),
        )  # fmt: skip

    @classmethod
    def make(cls, value: str | Odd) -> Odd:
        return value if isinstance(value, Odd) else cls(value)


def test_types_without_a_plain_comparison_are_stored() -> None:
    assert there_and_back(Odd, Odd("x")).text == "x"
    assert there_and_back(list[Odd], [Odd("\ud800")])[0].text == "\ud800"


class Tagged(BaseModel):
    tags: set[str] = set()
    deep: dict[str, list[frozenset[int | str] | None]] = {}
    either: set[str] | list[str] | None = None
    below: Tagged | None = None
    pair: tuple[frozenset[str], list[str]] = (frozenset(), [])


@given(st.permutations("abcdef"))
def test_sets_are_stored_in_one_order(letters: list[str]) -> None:
    # Their own order differs from process to process, and with it every hash that is compared.
    tagged = Tagged(
        tags=set(letters),
        deep={"x": [None, frozenset(letters)]},
        either=letters,
        below=Tagged(tags={*letters, "\ud800"}),
        pair=(frozenset(letters), letters),
    )
    assert there_and_back(Tagged, tagged) == tagged
    stored = parse(Codec(Tagged, "n").dump(tagged).text or "")
    assert stored["tags"] == stored["deep"]["x"][1] == stored["pair"][0] == [*"abcdef"]
    assert stored["below"]["tags"] == ["\ud800", *"abcdef"]
    assert stored["either"] == stored["pair"][1] == letters, "a list keeps its order"
    assert there_and_back(set[str], set(letters)) == set(letters)
    assert Codec(Any, "n").dump(letters).text == compact(letters)


class Foreign(BaseModel):
    """A model of somebody else's JSON."""

    kind: str = Field(alias="class")
    at: Json[list[int]] = Field(default=[], alias="@at")


class Area(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: int

    @computed_field
    @property
    def size(self) -> int:
        return self.side**2


def test_models_with_aliases_and_computed_fields_are_given_back_the_same() -> None:
    foreign = Foreign.model_validate({"class": "x", "@at": "[1,2]"})
    assert there_and_back(Foreign, foreign) == foreign
    assert there_and_back(list[Foreign], [foreign]) == [foreign]
    assert there_and_back(Area, Area(side=3)) == Area(side=3)


# ---- codecs ----


def test_check_validates_as_pydantic_does() -> None:
    assert Codec(int, "n").check("7") == 7
    with pytest.raises(ValidationError):
        Codec(int, "n").check("seven")
    with pytest.raises(ValidationError):
        Codec(Annotated[int, Field(gt=0)], "n").check(0)


def test_load_refuses_what_does_not_fit() -> None:
    for text in ('"x"', "", "{", '["\\ud800"]', "nul"):
        with pytest.raises(ValueError, match=r".+"):
            Codec(int, "n").load(text)


@pytest.mark.parametrize("hint", [Opaque, list[type], Callable[[], int], type, Opaque | None])
def test_types_without_json_are_refused_when_they_are_declared(hint: Any) -> None:
    with pytest.raises(DeclarationError) as caught:
        Codec(hint, "search.topic").schema()
    assert str(caught.value).startswith("search.topic: values of type ")
    assert "cannot be stored as JSON (" in str(caught.value)
    assert "ctx.artifact(...)" in str(caught.value)


def test_a_schema_is_json() -> None:
    schema = Codec(Tree, "n").schema()
    assert parse(compact(schema)) == schema
    assert schema["$defs"]["Leaf"]["properties"]["name"]["type"] == "string"


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (int, "int"),
        (None, "None"),
        (type(None), "None"),
        (Leaf, "Leaf"),
        (list[int], "list[int]"),
        (Any, "Any"),
        (int | None, "int | None"),
        (Literal["a"], "Literal['a']"),
    ],
)
def test_types_are_shown_as_people_write_them(hint: Any, shown: str) -> None:
    assert show_type(hint) == shown


# ---- stored values ----


def test_a_list_is_counted() -> None:
    assert Codec(list[int], "n").dump([1, 2, 3]).count() == 3
    assert Codec(set[int], "n").dump(set()).count() == 0
    assert Value(None, "d", 5, items=7).count() == 7
    for text in ('{"a":[1]}', '"[1]"', "null", None):
        with pytest.raises(ValueError, match="not a list"):
            Value(text, "d").count()


# ---- digests ----


@given(st.lists(any_text), st.lists(any_text))
def test_combine_tells_lists_apart(one: list[str], two: list[str]) -> None:
    assert (combine(one) == combine(two)) == (one == two)


def test_combine_tells_apart_what_joins_to_the_same_text() -> None:
    lists = [
        ["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"], ["abc", ""], ["", "abc"], [], [""],
        ["", ""], ["a\n1:b"], ["a", "b"], ["1:a\n1:b"], ["0:"], ["b", "a"],
    ]  # fmt: skip
    assert len({combine(each) for each in lists}) == len(lists)
    assert all(len(combine(each)) == 32 for each in lists)
    assert combine(("a", "b")) == combine(["a", "b"])


@given(any_text, any_text)
def test_digest_tells_texts_apart(one: str, two: str) -> None:
    assert (digest(one) == digest(two)) == (one == two)
    assert len(digest(one)) == 64


def test_digests_do_not_change_from_version_to_version() -> None:
    # They stand in journals: a change here makes every stored run look changed.
    assert digest("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert combine(["a", "bc"]) == "3f9d2c287163f041fecf96ff45911bc5"
    assert Codec(Point, "n").dump(Point(1.0, frozenset("a"))).text == '{"x":1.0,"tags":["a"]}'


# ---- compact and parse ----


@given(json_like)
def test_parse_undoes_compact(data: Any) -> None:
    text = compact(data)
    text.encode("utf-8")
    assert parse(text) == data
    assert compact(parse(text)) == text


def test_compact_has_no_spaces_and_keeps_order() -> None:
    assert compact({"b": [1, 2], "a": None}) == '{"b":[1,2],"a":null}'
    assert compact("\ud800é") == '"\\ud800\\u00e9"'
