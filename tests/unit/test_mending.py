"""JSON that models write: what is mended, and what is asked instead of being guessed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.nodes.mending import (
    OBJECTS_MAX,
    REPAIR_CHARS_MAX,
    bare,
    is_object,
    objects_in,
    read_json,
)

texts = st.text(max_size=6) | st.text(alphabet="abn\"'{}[]:,\\\n /.0u“你", max_size=10)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
data = st.recursive(
    leaves,
    lambda item: st.lists(item, max_size=3) | st.dictionaries(texts, item, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, data, min_size=1, max_size=4)


def same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(objects, st.sampled_from([None, 1]), st.booleans())
def test_strict_json_is_read_as_it_is(
    made: dict[str, Any], indent: int | None, ascii: bool
) -> None:
    text = json.dumps(made, indent=indent, ensure_ascii=ascii)
    found, exact = read_json(text)
    assert exact
    assert same(found, made)
    assert is_object(text)


def broken(made: dict[str, Any]) -> Iterator[str]:
    """The same object, with the mistakes that models make and that leave one reading."""
    text = json.dumps(made)
    yield f"{text[:-1]},}}"
    yield text[:-1]
    yield f"{text}}}"
    yield f"```json\n{text}\n```"
    yield f"\ufeff {text}\n"
    yield f"I call it so: {text} and wait."
    yield repr(made)
    yield json.dumps(made, ensure_ascii=False).replace("\\t", "\t")


@given(objects)
def test_a_mended_object_is_the_one_that_was_meant_or_none(made: dict[str, Any]) -> None:
    for text in broken(made):
        try:
            found, _ = read_json(text)
        except ValueError:
            continue
        assert same(found, made), text


@given(objects, objects, st.sampled_from(["", " ", "\n", ",", " then ", "</think>"]))
def test_of_two_objects_none_is_taken(one: Any, other: Any, between: str) -> None:
    text = f"{json.dumps(one)}{between}{json.dumps(other)}"
    if same(one, other):
        return
    with pytest.raises(ValueError, match="Extra data"):
        read_json(text)


@given(st.text() | st.text(alphabet="{}[]\"':,\\ntrue0.-", max_size=40))
def test_any_text_is_data_or_a_value_error(text: str) -> None:
    try:
        found, _ = read_json(text)
        json.dumps(found, allow_nan=False)
    except ValueError as error:
        assert str(error)  # noqa: PT017  (either is right)


MENDED: list[tuple[str, Any]] = [
    ("{'a': 'b', 'c': True, 'd': None}", {"a": "b", "c": True, "d": None}),
    ("{a: 1, b: [1, 2,],}", {"a": 1, "b": [1, 2]}),
    ('{"a": [1, {"b": "c"', {"a": [1, {"b": "c"}]}),
    ('{"a": true', {"a": True}),
    ('[{"a": 1}', [{"a": 1}]),
    ('{"a": {"b": 1,}, "c": [{}', {"a": {"b": 1}, "c": [{}]}),
    ("""{'a': "it's", 'b': 'say \\'"hi"\\''}""", {"a": "it's", "b": "say '\"hi\"'"}),
    ('{"a": "x" "b": 2}', {"a": "x", "b": 2}),
    ('{"a": "he said "hi" twice"}', {"a": 'he said "hi" twice'}),
    (r'{"a": "\d+\.\d"}', {"a": r"\d+\.\d"}),
    ('{"code": "x = y[1:]\nprint(x)\n"}', {"code": "x = y[1:]\nprint(x)\n"}),
    ('```\n{"a": 1,}\n```', {"a": 1}),
    ('{"a": 1}{"a": 1}', {"a": 1}),
    ('<think>no braces</think>{"a": 1}', {"a": 1}),
]


@pytest.mark.parametrize(("text", "wanted"), MENDED, ids=str)
def test_what_leaves_one_reading_is_mended(text: str, wanted: Any) -> None:
    assert read_json(text) == (wanted, False)


GUESSED = [
    "", " ", "no JSON", "null null", "{", '{"a"', '{"a":', '{"a": ', '{"a": }', '{"a": - }', '{"a": "b',
    '{"a": 12', '{"a": tru', '{"a": 1, "b', '{"a": "b", "c": "', '{"a": 1}, "b": 2}', "{}: null}", "{}: {}}",
    '{"a": "\\ud83d\\ude00" "b": 1}',
    '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a": 01}', '{"a": 1_000}',
    '{"a": 1 /* no */}', '{"a": "b", "c"}', '{"a": """b"""}', '{"a"："b"，"c": 1}', '{"a"：1}',
    r'{"path": "C:\Users\new"}', r'{"path": "C:\new\data"}', r'{"a": "\u12"}', "{'a': '\\x41'}",
    '{"a": {"b": 1}' + "}" * 3 + ': "c"', "{{}}", '<think>{"a": 1}</think>{"a": 2}',
]  # fmt: skip


@pytest.mark.parametrize("text", GUESSED, ids=str)
def test_what_would_be_a_guess_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(text)


def test_a_refusal_says_where() -> None:
    with pytest.raises(
        ValueError, match=r"Expecting value at character 6, near '\{\"a\": \+\+1\}'"
    ):
        read_json('{"a": ++1}')
    with pytest.raises(ValueError, match="two properties of one name"):
        read_json('{"a": 1, "a": 2}')


@pytest.mark.parametrize("head", ["[", '{"a":', "{'a':"])
def test_what_is_nested_too_deeply_is_refused(head: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(head * 5_000)


def test_long_texts_are_not_repaired_but_read() -> None:
    long = "x" * REPAIR_CHARS_MAX
    assert read_json(f'{{"a": "{long}"}}') == ({"a": long}, True)
    assert read_json(f'{{"a": "{long}\n"}}') == ({"a": f"{long}\n"}, False)
    with pytest.raises(ValueError, match="property name"):
        read_json(f'{{a: "{long}"}}')


def test_a_fence_is_taken_off() -> None:
    assert bare("```json\n{}\n```\n") == "{}"
    assert bare(" {} ") == "{}"
    assert bare("```") == ""


def test_only_strict_objects_are_objects() -> None:
    assert is_object(' {"a": [1]} ')
    for text in ("[]", "null", "1", "", "{'a': 1}", '{"a": NaN}', "[" * 5_000):
        assert not is_object(text)
    assert math.isfinite(read_json('{"a": 1e300}')[0]["a"])


HOSTILE = [
    '{"q": "', '\\"', "'\\", "{'", '"', "'", "[", "]", "{}", ",", '{"a":', '{"a":1}', "{'a':", "[]", "\\", "{\n",
    "```\n", "```json\n\n", '{"tool":', '{"tool":}', '{"tool": "a"}', '{"tool": "a", "parameters": {"a": "', "True ",
    "None'", "1", "[[],", '{"a": "b" ',
]  # fmt: skip


def seconds(work: Callable[[str], object], text: str) -> float:
    """The processor time of a piece of work, whatever comes of it."""
    begun = time.process_time()
    try:
        work(text)
    except ValueError:
        pass
    return time.process_time() - begun


def all_objects(text: str) -> list[str]:
    return list(objects_in(text))


@pytest.mark.parametrize("part", HOSTILE)
def test_a_megabyte_of_anything_is_read_or_refused_at_once(part: str) -> None:
    for head in ("", '{"q": "'):
        text = head + part * (1_000_000 // len(part)) + "}"  # a cut text is refused unseen
        assert seconds(read_json, text) < 1  # a tenth of a second or two; the square took hours
        assert seconds(all_objects, text) < 1


def test_the_time_grows_with_the_length_not_with_its_square() -> None:
    def spent(quotes: int) -> float:
        text = '{"code": "' + 'print(\\"x\\") ' * quotes + "}"
        return min(seconds(read_json, text) for _ in range(3))

    assert spent(40_000) < 8 * spent(10_000) + 0.1


def test_objects_of_a_text_are_the_outermost_ones_whole_or_open() -> None:
    def found(text: str) -> list[str]:
        return list(objects_in(text))

    one, two = '{"a": {"b": "}{"}}', "{'c': 'it\\'s {'}"
    assert found(f"I say {{x}}, it's {one}, then\n```\n{two}\n``` {{}}") == [one, two]
    assert found(f"[{one}, {two}]") == [one, two]
    assert found(f"{{{{{one[1:-1]}}}}}") == [one]  # doubled, as in a format string
    assert found(f'{one} {{"a": {one}') == [one, f'{{"a": {one}']
    assert found('x {"a": "it') == ['{"a": "it']
    assert found('{"a": 1}' * (OBJECTS_MAX + 2))[-1] == '{"a": 1}{"a": 1}'
    assert found("no {object} here") == found("") == []
