"""The conversation of a planner: a valid history within the window, the same for the same turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.chat import ChatMessage, Media, ToolCall
from flowkit.errors import DeclarationError
from flowkit.nodes.context import (
    DEFAULT,
    ContextPolicy,
    Conversation,
    HideResults,
    KeepLast,
    RestateGoal,
    Said,
    Summarise,
    _estimate,
    force_tool,
)

WINDOW = 1_000
GOAL = "Find it."


def conversation(*policies: ContextPolicy, window: int = WINDOW, goal: str = GOAL) -> Conversation:
    return Conversation("Be exact.", goal, policies, window)


def turn(n: int, chars: int = 400, calls: int = 1, **more: Any) -> Said:
    """A turn with calls whose results have so many characters together."""
    made = [ToolCall(f"c{n}.{i}", "look", "{}") for i in range(calls)]
    message = ChatMessage("assistant", f"turn {n}", tool_calls=made)
    results = [(call.id, "x" * (chars // calls)) for call in made]
    return Said(message, more.pop("results", results), **more)


def contents(talk: Conversation) -> list[str]:
    return [each.content or "" for each in talk.request_messages()]


def check_history(messages: Sequence[ChatMessage]) -> None:
    """Every call has its one result before anything else is said, and no result is alone."""
    open_calls: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert message.tool_call_id in open_calls
            open_calls.remove(message.tool_call_id or "")
        else:
            assert not open_calls
            open_calls = [call.id for call in message.tool_calls]
    assert not open_calls
    assert [each.role for each in messages[:2]] == ["system", "user"]
    assert messages[0].content == "Be exact."
    assert (messages[1].content or "").startswith(GOAL)


# ---- turns become messages ----


def test_a_conversation_begins_with_the_instructions_and_the_goal() -> None:
    talk = conversation()
    assert talk.request_messages() == (
        ChatMessage("system", "Be exact."),
        ChatMessage("user", GOAL),
    )
    assert talk.tokens == 3 + 2
    assert Conversation("", GOAL).request_messages() == (ChatMessage("user", GOAL),)


def test_a_turn_is_its_message_the_results_and_what_is_told() -> None:
    said = turn(1, calls=2, feedback=["wrong", "and short"])
    talk = conversation()
    talk.add(said)
    assert talk.request_messages()[2:] == (
        said.message,
        ChatMessage("tool", "x" * 200, tool_call_id="c1.0"),
        ChatMessage("tool", "x" * 200, tool_call_id="c1.1"),
        ChatMessage("user", "wrong\n\nand short"),
    )


def test_results_stand_in_the_order_of_their_calls_and_none_is_missing() -> None:
    talk = conversation()
    talk.add(turn(1, calls=3, results=[("c1.2", "last"), ("c1.0", "first"), ("c1.0", "again")]))
    assert contents(talk)[3:] == ["first", "There is no result of this call.", "last"]
    check_history(talk.request_messages())


def test_results_of_calls_in_a_text_are_told_by_the_user() -> None:
    talk = conversation(HideResults(at=0.0, keep_turns=0))
    talk.add(Said(ChatMessage("assistant", '{"tool": "look"}'), [("call-1", "found")]))
    assert talk.request_messages()[3] == ChatMessage("user", "Result of call-1:\nfound")
    talk.add(Said(ChatMessage("assistant", "more"), [("call-1", "y" * 800)]))
    assert talk.hidden == ("call-1#2",)
    assert contents(talk)[-1].startswith("Result of call-1:\n[output hidden: 800 characters")


def test_feedback_alone_is_a_turn() -> None:
    talk = conversation()
    talk.add(Said(feedback=["the plan was refused"]))
    assert contents(talk)[2:] == ["the plan was refused"]


def test_tokens_are_what_the_server_counted_and_what_came_since() -> None:
    talk = conversation()
    talk.add(turn(1, chars=400, input_tokens=250))
    added = (len("turn 1") + 3) // 4 + len("look") // 4 + 1 + 100
    assert talk.tokens == 250 + added
    talk.add(turn(2, chars=400))
    assert talk.tokens == 250 + 2 * added
    thought = ChatMessage("assistant", "", reasoning="x" * 40, media=[Media("image", "data:,")])
    talk.add(Said(thought, input_tokens=10))
    assert talk.tokens == 10 + 10 + 1_000
    talk.add(
        Said(ChatMessage("assistant", "你好", reasoning_details=[{"text": "y"}]), input_tokens=10)
    )
    assert talk.tokens == 10 + 2 + 4


# ---- policies ----


def test_old_results_are_hidden_at_the_mark_all_at_once() -> None:
    talk = conversation(HideResults(at=0.6, keep_turns=2))
    for n in range(1, 6):
        talk.add(turn(n))
        assert talk.hidden == ()
    talk.add(turn(6))
    assert talk.hidden == ("c1.0", "c2.0", "c3.0", "c4.0")
    stub = '[output hidden: 400 characters; call recall("c1.0") to read it]'
    assert contents(talk)[2:5] == ["turn 1", stub, "turn 2"]
    assert contents(talk)[-1] == "x" * 400
    assert talk.tokens < 0.6 * WINDOW
    assert talk.recall("c1.0") == "x" * 400
    assert talk.recall("c9.0") is None


def test_hiding_waits_until_it_wins_something() -> None:
    talk = conversation(HideResults(at=0.0, keep_turns=1))
    for n in range(1, 4):
        talk.add(turn(n, chars=340))
    assert talk.hidden == ()  # 2 results of 85 tokens, less 2 stubs of 16: no gain of 150
    talk.add(turn(4, chars=240))
    assert talk.hidden == ("c1.0", "c2.0", "c3.0")


def test_a_result_shorter_than_its_stub_stays() -> None:
    talk = conversation()
    talk.add(turn(1, chars=40))
    assert not talk.shrink()
    assert talk.hidden == ()


def test_ids_that_come_again_are_told_apart() -> None:
    talk = conversation(HideResults(at=0.0, keep_turns=0))
    for text in ("a" * 800, "b" * 800):
        call = ToolCall("functions.look:0", "look", "{}")
        talk.add(Said(ChatMessage("assistant", tool_calls=[call]), [(call.id, text)]))
    assert talk.hidden == ("functions.look:0", "functions.look:0#2")
    assert talk.recall("functions.look:0#2") == "b" * 800
    assert 'recall("functions.look:0#2")' in contents(talk)[-1]
    check_history(talk.request_messages())


def test_a_summary_takes_the_place_of_old_turns() -> None:
    talk = conversation(Summarise(at=0.5, keep_turns=2))
    for n in range(1, 5):
        talk.add(turn(n))
        assert talk.wants_summary() is None
    talk.add(turn(5))
    before = talk.request_messages()
    asked = talk.wants_summary()
    assert asked is not None
    check_history(asked)
    assert asked[:-1] == before[: len(asked) - 1]  # the server's prefix cache holds
    assert "turn 3" in [each.content for each in asked]
    assert "turn 4" not in [each.content for each in asked]
    talk.summarise("  I found x.  ")
    assert talk.wants_summary() is None
    assert contents(talk)[2:4] == ["What was done before, in short:\nI found x.", "turn 4"]
    assert talk.tokens < 0.5 * WINDOW
    for n in range(6, 10):
        talk.add(turn(n))
    asked = talk.wants_summary()
    assert asked is not None
    assert "I found x." in (asked[2].content or "")


def test_a_summary_that_does_not_come_changes_nothing_and_is_asked_again() -> None:
    talk = conversation(Summarise(at=0.5, keep_turns=1))
    talk.add(turn(1, chars=1_000))
    talk.add(turn(2, chars=1_000))
    assert talk.wants_summary() is not None
    before = talk.request_messages()
    talk.summarise(" ")
    assert talk.request_messages() == before
    assert talk.wants_summary() is not None
    talk.add(turn(3))
    assert talk.wants_summary() is not None
    conversation().summarise("nobody asked")


def test_turns_are_left_out_only_after_a_summary_was_missed() -> None:
    policies = (Summarise(at=0.5, keep_turns=1), KeepLast(at=0.6, turns=3))
    talk = conversation(*policies)
    talk.add(turn(1, chars=1_000))
    talk.add(turn(2, chars=1_400))
    assert len(talk.request_messages()) == 2 + 4  # above both marks, and a summary is due
    assert talk.wants_summary() is not None
    talk.add(turn(3, chars=1_000))
    assert contents(talk)[2] == "[2 turns between here and the next message are left out.]"
    assert contents(talk)[3] == "turn 3"
    assert talk.wants_summary() is None
    assert talk.recall("c1.0") == "x" * 1_000


def test_the_last_turns_are_kept_and_half_of_them_if_they_are_too_long() -> None:
    talk = conversation(KeepLast(at=0.9, turns=6))
    for n in range(1, 9):
        talk.add(turn(n))
    assert len(talk.request_messages()) == 2 + 16
    talk.add(turn(9))
    assert contents(talk)[2] == "[3 turns between here and the next message are left out.]"
    talk = conversation(KeepLast(at=0.9, turns=6))
    for n in range(1, 4):
        talk.add(turn(n, chars=2_000))
    assert [text for text in contents(talk) if text.startswith("turn")] == ["turn 3"]


def test_the_goal_is_restated() -> None:
    talk = conversation(RestateGoal(every=2))
    for n in range(1, 5):
        talk.add(turn(n, feedback=["hm"] if n == 4 else []))
    told = [each.content for each in talk.request_messages()[2:] if each.role == "user"]
    assert told == [f"Keep to the goal:\n{GOAL}", f"hm\n\nKeep to the goal:\n{GOAL}"]


SUM = force_tool(r"\d\s*[*+/-]\s*\d", "run_python")
ORDER = "Use the tool run_python for this; do not work it out yourself."


def test_a_tool_is_forced_where_the_newest_text_matches() -> None:
    talk = conversation(SUM, goal="How much is 12 * 37?")
    assert contents(talk)[1] == f"How much is 12 * 37?\n\n{ORDER}"
    assert talk.settings() == {}
    used = ChatMessage("assistant", "12 * 37 is", tool_calls=[ToolCall("a", "run_python", "{}")])
    talk.add(Said(used, [("a", "1 + 1")]))
    assert contents(talk)[2:] == ["12 * 37 is", "1 + 1"]  # called; and results order nothing
    talk.add(Said(ChatMessage("assistant", "then 444 / 2")))
    assert contents(talk)[-1] == ORDER
    talk.add(Said(ChatMessage("assistant", "done"), feedback=["no, 444 - 2"]))
    assert contents(talk)[-1] == f"no, 444 - 2\n\n{ORDER}"
    talk.add(Said(ChatMessage("assistant", "4 - 4"), feedback=["use words"]))
    assert contents(talk)[-1] == "use words"


def test_a_tool_may_be_named_to_the_server_for_the_next_request() -> None:
    talk = conversation(force_tool("sum", "add", choice=True), goal="the sum")
    assert talk.settings() == {"tool_choice": {"type": "function", "function": {"name": "add"}}}
    talk.add(turn(1))
    assert talk.settings() == {}


def test_policies_say_what_is_wrong_with_them() -> None:
    for wrong in (
        lambda: HideResults(at=60),
        lambda: Summarise(keep_turns=-1),
        lambda: KeepLast(turns=0),
        lambda: KeepLast(at=float("nan")),
        lambda: RestateGoal(every=0),
        lambda: force_tool("(", "x"),
    ):
        with pytest.raises(DeclarationError):
            wrong()


# ---- too long all the same ----


def test_shrinking_goes_on_until_nothing_is_left() -> None:
    talk = conversation(HideResults(keep_turns=3))
    for n in range(1, 9):
        talk.add(turn(n))
    seen: list[tuple[int, int]] = []
    while talk.shrink():
        seen.append((len(talk.hidden), len(talk.request_messages())))
        check_history(talk.request_messages())
    assert seen == [(5, 18), (7, 18), (7, 2 + 1 + 8), (7, 2 + 1 + 4), (7, 2 + 1 + 2), (8, 5)]
    assert contents(talk)[2:4] == [
        "[7 turns between here and the next message are left out.]",
        "turn 8",
    ]
    assert not conversation().shrink()


def test_no_summary_is_asked_after_shrinking() -> None:
    talk = conversation(Summarise(at=0.1, keep_turns=1))
    for n in range(1, 4):
        talk.add(turn(n))
    assert talk.wants_summary() is not None
    assert talk.shrink()
    assert talk.wants_summary() is None
    talk.summarise("too late")
    assert "too late" not in "".join(contents(talk))


# ---- any turns ----


POLICIES: list[tuple[ContextPolicy, ...]] = [
    DEFAULT,
    (),
    (HideResults(0.3, 1), Summarise(0.5, 1), KeepLast(0.7, 3), RestateGoal(3), SUM),
    (Summarise(0.2, 0), KeepLast(0.2, 1)),
    (KeepLast(0.5, 2), HideResults(0.1, 0)),
]


@st.composite
def turns(draw: st.DrawFn) -> tuple[Said, bool, int]:
    """A turn, whether a summary that is due is made, and how often the server refuses the length."""
    ids = draw(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True))
    calls = [ToolCall(id, "look", "{}") for id in ids]
    said = Said(
        draw(st.none() | st.just(ChatMessage("assistant", "1 + 1", tool_calls=calls))),
        [(id, "x" * draw(st.integers(0, 900))) for id in draw(st.permutations([*ids, "d"]))[:3]],
        draw(st.lists(st.sampled_from(["no", "again"]), max_size=2)),
        draw(st.sampled_from([0, 0, 0, 300, 1_200])),
    )
    return said, draw(st.booleans()), draw(st.sampled_from([0, 0, 0, 0, 1, 3]))


def live(talk: Conversation, plan: tuple[Said, bool, int]) -> Said:
    """What a planner does in one turn; gives what its events tell of it."""
    said, summary, refused = plan
    made: str | None = None
    if summary and (asked := talk.wants_summary()):
        check_history(asked)
        made = f"summary of {len(asked)}"
        talk.summarise(made)
    shrunk = sum(talk.shrink() for _ in range(refused))
    return replace(said, summary=made, shrunk=shrunk)


@given(st.lists(turns(), max_size=25), st.sampled_from(POLICIES))
def test_the_same_turns_make_the_same_messages(
    plans: list[tuple[Said, bool, int]], policies: tuple[ContextPolicy, ...]
) -> None:
    talk = conversation(*policies)
    ended: list[Said] = []
    for plan in plans:
        resumed = conversation(*policies)
        for said in ended:
            resumed.add(said)
        assert resumed.request_messages() == talk.request_messages()
        assert resumed.wants_summary() == talk.wants_summary()
        said = live(talk, plan)
        assert live(resumed, plan) == said  # a crash in the middle of a turn
        assert resumed.request_messages() == talk.request_messages()
        assert (resumed.hidden, resumed.tokens) == (talk.hidden, talk.tokens)
        check_history(talk.request_messages())
        talk.add(said)
        ended.append(said)
        check_history(talk.request_messages())
        assert talk.tokens >= 0
        assert all(talk.recall(id) is not None for id in talk.hidden)


@given(st.lists(turns(), max_size=40), st.sampled_from(POLICIES))
def test_a_turn_adds_its_own_messages_and_a_message_changes_once(
    plans: list[tuple[Said, bool, int]], policies: tuple[ContextPolicy, ...]
) -> None:
    talk = conversation(*policies)
    kept = list(talk.request_messages())  # so that no object's identity is used again
    seen = {id(each) for each in kept}
    given = measures = 0
    for plan in plans:
        said = live(talk, plan)
        talk.add(said)
        new = [each for each in talk.request_messages() if id(each) not in seen]
        kept += new
        seen |= {id(each) for each in new}
        calls = len(said.message.tool_calls) if said.message else 0
        given += 2 + calls + len(said.results)
        measures += 3 + said.shrunk
    assert len(kept) <= 2 + 2 * given + measures


@given(st.lists(turns(), max_size=30), st.sampled_from(POLICIES))
def test_the_estimate_is_kept_up_to_date(
    plans: list[tuple[Said, bool, int]], policies: tuple[ContextPolicy, ...]
) -> None:
    talk = conversation(*policies)
    for said, summary, refused in plans:
        talk.add(live(talk, (replace(said, input_tokens=0), summary, refused)))
        assert talk.tokens == _estimate(talk.request_messages())


@given(st.lists(st.integers(0, 160), min_size=1, max_size=120))
def test_the_conversation_stays_within_the_window(sizes: list[int]) -> None:
    talk = conversation(*DEFAULT)
    for n, size in enumerate(sizes):
        talk.add(turn(n, chars=size))
        assert talk.tokens < WINDOW


def test_a_long_run_sends_what_it_has_sent_before() -> None:
    talk = Conversation("Be exact.", GOAL)
    before: tuple[ChatMessage, ...] = ()
    broken = 0
    for n in range(300):
        now = talk.request_messages()
        broken += any(one is not other for one, other in zip(before, now, strict=False))
        before = now
        if talk.wants_summary():
            talk.summarise(f"summary {n}")
        message = ChatMessage(
            "assistant", "", "r" * 4_000, tool_calls=[ToolCall(f"c{n}", "look", "{}")]
        )
        talk.add(Said(message, [(f"c{n}", "x" * 20_000)]))
        assert talk.tokens < 262_144
    assert broken <= 30  # 1.8 million tokens went through a window of 262,144
