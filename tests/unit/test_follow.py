"""What a watcher is shown of a model that thinks: how much, not what."""

from __future__ import annotations

import flowkit.events as ev
from flowkit.cli.follow import View, describe
from flowkit.events import Event
from flowkit.state import State
from flowkit.values import Value, compact


def told(view: View, **data: str) -> None:
    view.feed(Event(0, 0.0, ev.Progress(data), key="plan/t1"))


def test_reasoning_is_folded_while_it_comes() -> None:
    view = View("r", "w")
    told(view, reasoning="Let me see. ")
    told(view, reasoning="Yes.")
    told(view, delta="The ")
    told(view, delta="answer")
    assert view.thought == {"plan/t1": 16}
    assert view.progress == {"plan/t1": "The answer"}
    told(view, note="own data of a node")
    assert view.progress == {"plan/t1": "{'note': 'own data of a node'}"}


def test_an_answer_is_a_line_with_its_reasoning_folded() -> None:
    def line(**message: str) -> str:
        value = Value.of(compact({"message": {"role": "assistant", **message}}))
        payload = ev.ModelAnswered("q", 1, "kimi", value, duration_s=2.0)
        return describe(Event(3, 0.0, payload, key="plan/t1"), State())

    assert line(content="x") == "plan/t1 kimi answered in 2.0 s"
    folded = line(content="x", reasoning="my secret thought")
    assert folded == "plan/t1 kimi answered in 2.0 s (+ 17 characters of reasoning)"
