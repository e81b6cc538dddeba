"""`flowkit approve`: what a step of a stored run asks a person, and the answer."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from typing import Any

from flowkit.approval import Approval as Answer
from flowkit.approval import Question
from flowkit.cli.config import Database
from flowkit.cli.exits import SUCCESS, WAITING, Problem, say
from flowkit.cli.looking import find_run, leave_message, on_store, print_posted
from flowkit.cli.text import rfc3339, to_json
from flowkit.engine import Engine
from flowkit.store import SqlStore
from flowkit.values import parse

__all__ = ["Answer", "answer_question"]

INPUT_CHARACTERS = 2_000
"""What is shown of each input of a step that asks."""


def answer_question(
    database: Database, ref: str, step: str, answer: Answer | None, *, json: bool
) -> int:
    """Post the answer of one question; without an answer show what is asked. The exit code."""

    async def work(store: SqlStore) -> tuple[str, list[Question]]:
        record = await find_run(store, ref)
        return record.run_id, list(await Engine(store).questions(record.run_id))

    run_id, asked = on_store(database, work)
    shown = _meant(run_id, asked, step)
    if answer is None:
        if json:
            print(to_json([_data(each) for each in shown]))
        for line in () if json else [line for each in shown for line in _lines(each)]:
            say(line)
        return WAITING
    if len(shown) != 1:
        raise Problem(f"several steps ask: {_steps(shown)}. Say which is meant.")
    agreed = answer.approved
    record = leave_message(
        database,
        run_id,
        lambda engine, run_id: engine.approve(
            run_id,
            shown[0].step,
            approved=agreed,
            by=answer.by or getpass.getuser(),
            note=answer.note,
        ),
        "approve",
    )
    print_posted(record, json=json, database=database)
    return SUCCESS


def _meant(run_id: str, asked: list[Question], step: str) -> list[Question]:
    if not asked:
        raise Problem(f"no step of run {run_id} asks for an approval now.")
    found = [each for each in asked if step in ("", each.step)]
    if not found:
        raise Problem(
            f"step {step!r} of run {run_id} asks nothing; steps that do: {_steps(asked)}."
        )
    return found


def _steps(asked: list[Question]) -> str:
    return ", ".join(repr(each.step) for each in asked)


def _lines(question: Question) -> list[str]:
    """What a person must know to answer."""
    lines = [f"step {question.step!r} asks before it calls {question.tool}: {question.why}."]
    for text in question.inputs:
        left = len(text) - INPUT_CHARACTERS
        more = f" … and {left:,} characters more; --json has all" if left > 0 else ""
        lines.append(f"  with {text[:INPUT_CHARACTERS]}{more}")
    return lines


def _data(question: Question) -> dict[str, Any]:
    plain = asdict(question)
    plain["inputs"] = [parse(text) for text in question.inputs]
    plain["until"] = rfc3339(question.until)
    return plain
