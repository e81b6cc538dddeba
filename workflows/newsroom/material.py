"""The material of an article: notes, a folder, or the example that ships; kept when the run begins.

A resume, on this machine or another, sees the same documents, whatever became of the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import anyio.to_thread

from flowkit import Artifact, Context
from flowkit.nodes import Plan, Planned, Turn
from flowkit.nodes.tools.corpus import Corpus
from flowkit.nodes.tools.documents import Document
from flowkit.workflows.newsroom.values import Assignment

SHIPPED = "footbridge"


def load(assignment: Assignment) -> bytes:
    """The documents of an assignment; raises `ValueError` for a folder without any."""
    if assignment.folder.strip():
        return Corpus.from_folder(Path(assignment.folder).expanduser()).to_json()
    if assignment.notes.strip():
        return Corpus([Document(id="notes", title="Notes", text=assignment.notes)]).to_json()
    place = files("flowkit.workflows.newsroom") / "data" / SHIPPED
    with as_file(place) as path:
        return Corpus.from_folder(path).to_json()


async def opened(ctx: Context, material: Artifact | None) -> Corpus:
    """The material of a run, indexed; the last few are kept in memory."""
    if material is None:
        raise LookupError("the step names no material; the agents give theirs to their tools.")
    return await anyio.to_thread.run_sync(_indexed, await ctx.read(material))


@lru_cache(maxsize=4)
def _indexed(data: bytes) -> Corpus:
    return Corpus.from_json(data)


def sentences(text: str) -> list[str]:
    """The sentences of a text, headings and list marks left out."""
    prose = " ".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = re.split(r"(?<=[.!?])[\"”’)]*\s+(?=[\"“‘(]?[A-Z0-9À-Þ])", " ".join(prose.split()))
    return [each.strip() for each in found if len(each.split()) >= 4]


def plain(text: str) -> str:
    """A text for comparison: one kind of quotes and spaces, no case."""
    for marks, one in (("“”„«»", '"'), ("‘’‚", "'"), ("–—", "-")):
        for mark in marks:
            text = text.replace(mark, one)
    return " ".join(text.split()).casefold()


# ---- the material goes to the tools without the model


GIVEN = frozenset({"search_material", "read_material", "researcher"})
"""Tools that take the material. The model does not see which it is, and cannot choose another."""

REPEATS_MAX = 3
"""How often the very same call is made."""


def handed_on(plan: Plan, material: Artifact | None, turns: Sequence[Turn]) -> Plan:
    """The plan with the material put into its steps, without calls that were made often enough."""
    made = [_key(step) for turn in turns for step in turn.steps]
    steps = [filled(step, material) for step in plan.steps]
    again = {step.id for step in steps if made.count(_key(step)) >= REPEATS_MAX}
    note = f"this very call was made {REPEATS_MAX} times, and its results stand above."
    calls = [
        replace(call, step="", how="refused", note=note) if call.step in again else call
        for call in plan.calls
    ]
    kept = [step for step in steps if step.id not in again]
    return replace(plan, steps=kept, calls=tuple(calls))


def filled(step: Planned[Any], material: Artifact | None) -> Planned[Any]:
    """The step with the material among its arguments, if its tool takes it."""
    if step.tool not in GIVEN or material is None or step.inputs[0].text is None:
        return step
    told = json.loads(step.inputs[0].text)
    told["material"] = asdict(material)
    first = replace(step.inputs[0], text=json.dumps(told, ensure_ascii=False))
    return replace(step, inputs=(first, *step.inputs[1:]))


def _key(step: Planned[Any]) -> tuple[str, str]:
    told = [json.loads(source.text or "null") for source in step.inputs]
    return step.tool, json.dumps(told, sort_keys=True)
