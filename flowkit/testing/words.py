"""Where a replay and its recording differ, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import flowkit.events as ev
from flowkit.chat import ModelRequest
from flowkit.events import Error
from flowkit.graph import Step
from flowkit.testing.compare import difference
from flowkit.testing.recording import Request, texts_of
from flowkit.testing.twin import Attempt
from flowkit.values import compact, parse

SHOWN_MAX: Final = 160
_BEFORE: Final = 24
_AFTER: Final = 60
_LISTED_MAX: Final = 5

_TURN: Final = re.compile(r"(.+)/t(\d+)")
_ROUND: Final = re.compile(r"(.+)@(\d+)")


def where(place: Attempt) -> str:
    """An attempt as a person names it: "turn 7 of plan", "round 2 of write, attempt 3"."""
    key, alternative, attempt = place
    name = f"step {key}"
    if found := _TURN.fullmatch(key):
        name = f"turn {found[2]} of {found[1]}"
    elif found := _ROUND.fullmatch(key):
        name = f"round {found[2]} of {found[1]}"
    name += f", alternative {alternative + 1}" if alternative else ""
    return name + (f", attempt {attempt}" if attempt > 1 else "")


def shown(text: str) -> str:
    """A text, cut."""
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def texts(recorded: str, now: str) -> str:
    """Two texts around the first place where they differ."""
    pairs = enumerate(zip(recorded, now, strict=False))
    at = next((n for n, (one, two) in pairs if one != two), min(len(recorded), len(now)))
    first = max(at - _BEFORE, 0)

    def around(text: str) -> str:
        end = at + _AFTER
        piece = text[first:end]
        return repr(f"{'…' if first else ''}{piece}{'…' if len(text) > end else ''}")

    return f"recorded {around(recorded)}, now {around(now)}"


def values(recorded: str | None, now: str | None) -> str:
    """Two JSON texts; empty where they mean the same."""
    one, two = parse(recorded or "null"), parse(now or "null")
    if one == two and compact(one) == compact(two):
        return ""
    if isinstance(one, str) and isinstance(two, str):
        return texts(one, two)
    return f"recorded {shown(recorded or 'nothing')}, now {shown(now or 'nothing')}"


def inputs(names: Sequence[str], texts: Sequence[str | None]) -> str:
    """What a node is given, as a call has it."""
    if len(names) == 1:
        return shown(texts[0] or "")
    return ", ".join(
        f"{name}={shown(text or '')}" for name, text in zip(names, texts, strict=False)
    )


# ---- requests


def requests(recorded: Request | None, now: ModelRequest) -> str:
    """What differs between two requests, or that it cannot be told."""
    if recorded is None:
        return (
            "the request to the model differs; the recording has only the hash of the recorded one "
            "(it was made without the workflow's code)"
        )
    return "the request to the model differs in " + (
        _messages(recorded.messages(), texts_of(now))
        or _tools(recorded.tools, compact(now.tools))
        or _other("the schema of the answer", recorded.schema, compact(now.schema))
        or _other("the schema's name", compact(recorded.schema_name), compact(now.schema_name))
        or _other("its settings", compact(recorded.settings), compact(now.settings))
        or "nothing that can be told"
    )


def _messages(recorded: Sequence[str], now: Sequence[str]) -> str:
    for number, (one, two) in enumerate(zip(recorded, now, strict=False), 1):
        if one != two:
            return f"message {number} {_message(parse(one), parse(two))}"
    if len(now) > len(recorded):
        number = len(recorded) + 1
        return f"message {number}, which is new: {shown(now[number - 1])}"
    if len(recorded) > len(now):
        number = len(now) + 1
        return f"message {number}, which is gone: {shown(recorded[number - 1])}"
    return ""


def _message(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    role = str(now.get("role"))
    if recorded.get("role") != role:
        return f"({role}): recorded one of role {recorded.get('role')}: {shown(compact(recorded))}"
    for name in ("content", "reasoning"):
        one, two = recorded.get(name), now.get(name)
        if one != two and isinstance(one, str) and isinstance(two, str):
            told = "" if name == "content" else f", its {name}"
            return f"({role}){told}: {texts(one, two)}"
    return f"({role}): {difference(recorded, now)}"


def _tools(recorded: str, now: str) -> str:
    if recorded == now:
        return ""
    ones, twos = _by_name(recorded), _by_name(now)
    if ones.keys() != twos.keys():
        return f"its tools: recorded {', '.join(ones) or 'none'}, now {', '.join(twos) or 'none'}"
    for name, tool in ones.items():
        if told := difference(tool, twos[name]):
            return f"its tool {name}: {told}"
    return "the order of its tools"


def _by_name(text: str) -> dict[str, Any]:
    return {str(tool.get("name")): tool for tool in cast("list[dict[str, Any]]", parse(text))}


def _other(what: str, recorded: str, now: str) -> str:
    if recorded == now:
        return ""
    told = difference(parse(recorded), parse(now)) or "the order of its fields"
    return f"{what}: {told.replace('the result is', 'now')}"


# ---- outcomes


def steps(recorded: ev.Planned, now: ev.Planned) -> str:
    """What differs between two plans; empty for nothing."""
    ones, twos = list(recorded.steps), list(now.steps)
    for one, two in zip(ones, twos, strict=False):
        if one != two:
            return f"the steps planned differ: recorded {_step(one)}, now {_step(two)}"
    if len(ones) != len(twos):
        more, what = (twos, "now also") if len(twos) > len(ones) else (ones, "not any more")
        rest = more[min(len(ones), len(twos)) :]
        listed = ", ".join(_step(step) for step in rest[:_LISTED_MAX])
        return f"the steps planned differ: {len(ones)} recorded, {len(twos)} now; {what} {listed}"
    for was, call in zip(recorded.calls, now.calls, strict=False):
        if was != call:
            return (
                f"call {was.id} of the model was {was.how} ({was.note or was.step}), now it is "
                f"{call.how} ({call.note or call.step})"
            )
    return "" if recorded.again == now.again else "whether it is asked again differs"


def _step(step: Step) -> str:
    given = [
        source.text if source.text is not None else f"${source.step}" for source in step.inputs
    ]
    told = f"{step.key}: {' | '.join(step.nodes)}({shown(', '.join(map(str, given)))})"
    details = {
        "after": ", ".join(step.after), "each": step.each, "checks": step.checks,
        "timeout_s": step.timeout_s,
    }  # fmt: skip
    said = [f"{name}={value}" for name, value in details.items() if value]
    return f"{told} {' '.join(said)}".rstrip()


def errors(recorded: Error, now: Error) -> str:
    """Two errors; empty where type and message are the same."""
    if (recorded.type, recorded.message) == (now.type, now.message):
        return ""
    if recorded.type == now.type:
        return f"its error ({now.type}) says: {texts(recorded.message, now.message)}"
    return f"recorded {shown(str(recorded))}, now {shown(str(now))}"


def outcome(payload: ev.Payload) -> str:
    """How an attempt went."""
    match payload:
        case ev.StepDone(value=value):
            return f"gave {shown(value.text or '') if value else 'nothing'}"
        case ev.Decided(how="set", value=value):
            return f"was set to {shown(value.text or '') if value else 'nothing'}"
        case ev.Decided():
            return "was decided on"
        case ev.Planned(steps=planned):
            listed = ", ".join(step.key for step in planned[:_LISTED_MAX])
            return f"planned {listed or 'nothing'}{', …' if len(planned) > _LISTED_MAX else ''}"
        case ev.Accepted():
            return "accepted"
        case ev.Rejected(feedback=feedback):
            return f"rejected ({shown(feedback)})"
        case ev.AttemptFailed(error=error, then=then):
            return f"failed ({shown(str(error))}; then: {then})"
        case _:
            return ev.kind_of(type(payload))


def end(ended: ev.RunEnded) -> str:
    """How a run ended."""
    told = f" ({shown(str(ended.error))})" if ended.error is not None else ""
    return f"{ended.status}{f' at {ended.step}' if ended.step else ''}{told}"
