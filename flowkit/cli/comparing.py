"""`diff`: two runs side by side, as people and programs read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from os.path import commonprefix
from typing import Any

from flowkit.asking import read_answer
from flowkit.chat import Usage
from flowkit.cli.config import Database
from flowkit.cli.exits import FAILED, SUCCESS
from flowkit.cli.looking import find_run, on_store
from flowkit.cli.table import Column, print_table
from flowkit.cli.text import clean, counted, to_json
from flowkit.errors import FlowkitError
from flowkit.graph import Step
from flowkit.history.diff import Outcome, Run, RunDiff, StepDiff, Total, diff
from flowkit.rewind import Fold
from flowkit.store import SqlStore
from flowkit.values import Value

SHOWN_MAX = 400
"""Characters of a text that are shown, from a little before where it parts from the other."""

CELL_MAX = 60


def diff_runs(database: Database, first: str, second: str, *, every: bool, json: bool) -> int:
    """Print where two runs came to something else; exit code 1 if they did anywhere."""

    async def work(store: SqlStore) -> tuple[RunDiff, dict[str, str]]:
        found = diff(await _run(store, first), await _run(store, second))
        return found, await _texts(store, found)

    found, texts = on_store(database, work)
    if json:
        print(to_json(_data(found, texts)))
    else:
        _print(found, texts, every)
    return SUCCESS if found.same else FAILED


async def _run(store: SqlStore, ref: str) -> Run:
    record = await find_run(store, ref)
    journal = await store.load(record.run_id)
    return Run(record.run_id, Fold().apply_all(journal.events), journal.events)


async def _texts(store: SqlStore, found: RunDiff) -> dict[str, str]:
    """The texts of what differs, by digest; large ones are read."""
    texts: dict[str, str] = {}
    for step in found.steps:
        for side in (step.first, step.second):
            if side is None or step.how in ("shared", "same"):
                continue
            for value in (*side.answers, *([side.value] if side.value is not None else ())):
                if value.digest not in texts:
                    texts[value.digest] = await _text(store, value)
    return texts


async def _text(store: SqlStore, value: Value) -> str:
    try:
        return value.text or (await store.get(value.digest)).decode()
    except FlowkitError:  # a damaged database is looked at, too
        return f"({value.size:,} bytes that are not there)"


# ---- for people


def _print(found: RunDiff, texts: Mapping[str, str], every: bool) -> None:
    for name, one, two in _facts(found):
        print(f"{name + ':':<12}{clean(one, CELL_MAX)} | {clean(two, CELL_MAX)}")
    columns = [Column("STEP"), Column("HOW"), Column("WHAT"), Column("FIRST"), Column("SECOND")]
    shown = [step for step in found.steps if every or step.how not in ("shared", "same")]
    rows = [
        [step.step, step.how, ", ".join(step.parts), _cell(step.first), _cell(step.second)]
        for step in shown
    ]
    if rows:
        print()
        print_table(columns, rows)
    parted = found.parted
    if parted is not None:
        print(f"\nthe first difference is {clean(parted.step)}:")
        for what, one, two in _sides(parted, texts):
            print(f"  {what}:")
            for mark, text in zip("-+", apart(one, two), strict=True):
                print(f"  {mark} {clean(text)}")
    _print_usage(found)
    counts = {how: sum(step.how == how for step in found.steps) for how in ("shared", "same")}
    rest = len(found.steps) - sum(counts.values())
    print(
        f"{counted(len(found.steps), 'step')}: {counts['shared']} shared, {counts['same']} the same, "
        f"{rest} not."
    )


def _facts(found: RunDiff) -> list[tuple[str, str, str]]:
    one, two = found.first, found.second
    facts = [("runs", one.run_id, two.run_id), ("status", _ended(one), _ended(two))]
    if one.workflow != two.workflow:
        facts.append(("workflow", one.workflow, two.workflow))
    if "input" in found.run_parts:
        facts.append(("input", "another one", "than this run's"))
    return facts


def _ended(total: Total) -> str:
    return f"{total.status}: {total.error}" if total.error is not None else total.status


def _cell(side: Outcome | None) -> str:
    if side is None:
        return "-"
    return f"{side.status}{' (set)' if side.set else ' (decided)' if side.decided else ''}"


def _sides(step: StepDiff, texts: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """What differs of a step, with both texts."""
    parts: list[tuple[str, Callable[[Outcome], str]]] = [
        ("status", lambda side: side.status),
        ("result", lambda side: texts[side.value.digest] if side.value is not None else ""),
        ("plan", _plan),
        ("feedback", lambda side: side.feedback),
        ("error", lambda side: str(side.error or "")),
        ("failed attempts", lambda side: "; ".join(side.failed)),
        ("node", lambda side: side.node),
    ]
    found = [
        (name, tell(step.first) if step.first else "", tell(step.second) if step.second else "")
        for name, tell in parts
    ]
    count = max(len(side.answers) if side is not None else 0 for side in (step.first, step.second))
    for n in range(count):
        said = [
            _said(texts, side.answers[n]) if side is not None and n < len(side.answers) else ""
            for side in (step.first, step.second)
        ]
        found.append((f"model's answer {n + 1}", said[0], said[1]))
    return [each for each in found if each[1] != each[2]]


def _plan(side: Outcome) -> str:
    steps = ", ".join(map(_planned, side.plan)) or "nothing"
    return (
        f"{steps}{', then asked again' if side.again else ''}" if side.status == "planned" else ""
    )


def _planned(step: Step) -> str:
    given = ", ".join(source.text or source.step for source in step.inputs)
    return f"{step.key} = {step.nodes[0]}({given})"


def _said(texts: Mapping[str, str], value: Value) -> str:
    """A model's answer as it is read: its reasoning, its text, its calls; their ids tell nothing."""
    try:
        message = read_answer(texts[value.digest]).message
    except (ValueError, FlowkitError):
        return texts[value.digest]
    calls = [f"{call.name} {call.arguments}" for call in message.tool_calls]
    thought = f"(thinking: {message.reasoning})" if message.reasoning else ""
    return " ".join(part for part in (thought, message.content or "", *calls) if part)


def apart(one: str, two: str) -> tuple[str, str]:
    """Both texts from a little before the place where they part, shortened."""
    same = len(commonprefix([one, two]))  # noqa: RUF071  (texts, not paths)
    start = max(same - 40, 0) if same > 80 else 0
    cut = [f"…{text[start:]}" if start else text for text in (one, two)]
    return clean(cut[0] or "(none)", SHOWN_MAX), clean(cut[1] or "(none)", SHOWN_MAX)


def _print_usage(found: RunDiff) -> None:
    if not (found.first.answers or found.second.answers):
        return
    columns = [Column("MODELS USED")] + [
        Column(name, right=True) for name in ("ANSWERS", "TOKENS IN", "CACHED", "OUT", "COST")
    ]
    rows: list[list[str]] = []
    for total in (found.first, found.second):
        rows.append([total.run_id, str(total.answers), *_numbers(total.usage)])
        if found.shared:
            rows.append(["  not shared", "", *_numbers(total.own)])
    print()
    print_table(columns, rows)
    print()


def _numbers(usage: Usage) -> list[str]:
    cost = "-" if usage.cost_usd is None else f"${usage.cost_usd:,.4f}"
    numbers = (usage.input_tokens, usage.cached_tokens, usage.output_tokens)
    return [*(f"{number:,}" for number in numbers), cost]


# ---- for programs


def _data(found: RunDiff, texts: Mapping[str, str]) -> dict[str, Any]:
    parted = found.parted
    return {
        "same": found.same,
        "runs": [_total_data(found.first), _total_data(found.second)],
        "shared_events": found.shared,
        "differs": list(found.run_parts),
        "steps": [
            {
                "step": step.step, "how": step.how, "parts": list(step.parts),
                "first": _side_data(step.first), "second": _side_data(step.second),
            }
            for step in found.steps
        ],
        "parted": None if parted is None else {
            "step": parted.step,
            "parts": [
                {"what": what, "first": one or None, "second": two or None}
                for what, one, two in _sides(parted, texts)
            ],
        },
    }  # fmt: skip


def _total_data(total: Total) -> dict[str, Any]:
    data = asdict(total)
    data["error"] = str(total.error) if total.error is not None else None
    return data


def _side_data(side: Outcome | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "status": side.status, "node": side.node, "set": side.set, "decided": side.decided, "failed": list(side.failed),
        "usage": asdict(side.usage),
    }  # fmt: skip
