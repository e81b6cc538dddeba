"""`flowkit export --as-test`: a run as a test that replays it, and its recording beside it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

import flowkit.events as ev
from flowkit.asking import CONTEXT_TOKENS
from flowkit.cli.config import Database
from flowkit.cli.driving import entered, model_for
from flowkit.cli.exits import SUCCESS, Problem, say
from flowkit.cli.looking import find_run, on_store
from flowkit.cli.runfile import new_file, refuse_present, tell, write_whole
from flowkit.cli.targets import Target, target_of_run
from flowkit.cli.text import clean, rfc3339, to_json
from flowkit.ports import RunRecord, Windowed
from flowkit.rewind import graph_of
from flowkit.store import SqlStore
from flowkit.testing.recording import Recording
from flowkit.testing.replay import Replay, requests_of

_TEST = '''"""Replays a run of workflow {workflow}, which began at {began}: run
{run_id}.

Written by `flowkit export --as-test`. No model is asked, and no tool runs{but}: what they gave
then stands in {data}. The test fails where the workflow does
something else than it did, and names the first difference. If the change is meant, run the workflow
anew and export that run.
"""

{imports}

RECORDING = Path(__file__).with_suffix(".jsonl")


def test_{name}_does_what_it_did() -> None:
    async def again() -> None:
        replayed = await replay({expression}, Recording.read(RECORDING){options})
        replayed.assert_same()

    anyio.run(again)
'''


def write_test(
    database: Database,
    ref: str,
    target: str | None,
    out: Path | None,
    run: Sequence[str],
    *,
    force: bool,
    json: bool,
) -> int:
    """Write the test and its recording; say if the present code does something else already."""
    record, recording = on_store(database, lambda store: _record(store, ref))
    loaded = target_of_run(record.workflow, target)
    path = out if out is not None else Path(f"test_{record.workflow.replace('-', '_')}.py")
    if path.suffix != ".py":
        raise Problem(
            f"--out {clean(path)}: a test is a Python file: give a name that ends in .py."
        )
    data = path.with_suffix(".jsonl")
    for each in (path, data):
        refuse_present(each, force=force)
    text = _text(record, loaded, path, data, run)
    with contextlib.redirect_stdout(sys.stderr):  # what nodes print is no data
        replayed, notes = anyio.run(_replay, loaded, recording, run)
    written = write_whole(database, record.run_id, data, force=force, notes=notes)
    with new_file(path, force=force) as file:
        file.write(text.encode())
    tell(written, clean(data))
    for line in _advice(loaded, recording, run, replayed, path):
        say(line)
    if json:
        told = {"run_id": record.run_id, "test": str(path), "recording": str(data)}
        print(to_json({**told, "difference": replayed.difference or None}))
    return SUCCESS


async def _record(store: SqlStore, ref: str) -> tuple[RunRecord, Recording]:
    record = await find_run(store, ref)
    return record, await Recording.of(store, record.run_id)


async def _replay(
    target: Target, recording: Recording, run: Sequence[str]
) -> tuple[Replay[Any], list[Mapping[str, Any]]]:
    """Replay once, for the words of the requests; the journal has only their hashes."""
    model = model_for(target)
    window = model.context_tokens if isinstance(model, Windowed) else CONTEXT_TOKENS
    try:
        async with entered(target.resources if run else ()) as resources:
            return await requests_of(
                target.workflow, recording, run=run, resources=resources,
                models=[(model.name, window)],
            )  # fmt: skip
    finally:
        close = getattr(model, "aclose", None)
        if close is not None:
            await close()


def _advice(
    target: Target, recording: Recording, run: Sequence[str], replayed: Replay[Any], path: Path
) -> list[str]:
    lines = [f"test: {clean(path)}. Run it with: pytest {clean(path)} (pip install pytest)"]
    if replayed.difference:
        lines.append(f"it fails already with the present code: {replayed.difference}")
    if run and target.resources:
        lines.append(
            f"what the test runs may need the resources of {target.module.__name__}: give them to it, "
            "replay(..., resources=...)."
        )
    asking = _asking(target, recording)
    if left := [name for name in asking if name not in run]:
        lines.append(
            f"tool {', '.join(left)} asked a model and is not run by the test, so its prompt is not under "
            f"test. If it does nothing else outside: --run {' --run '.join(left)}"
        )
    return lines


def _asking(target: Target, recording: Recording) -> list[str]:
    """Tools that asked a model."""
    nodes = target.workflow.nodes
    keys = {
        event.key for event in recording.file.events if isinstance(event.payload, ev.ModelAnswered)
    }
    graph = graph_of(recording.file.events)
    steps = list(graph.steps) if graph is not None else []
    for event in recording.file.events:
        if isinstance(event.payload, ev.Planned):
            steps += event.payload.steps
    found: dict[str, None] = {}
    for step in steps:
        ending = re.compile(rf"(.*/)?{re.escape(step.key)}(@\d+|/\d+)*")
        if any(ending.fullmatch(key) for key in keys):
            found.update({name: None for name in step.nodes if name in nodes})
    return [name for name in found if nodes[name].kind == "tool"]


def _text(record: RunRecord, target: Target, path: Path, data: Path, run: Sequence[str]) -> str:
    """The test's source."""
    module, expression = target.module.__name__, _expression(target)
    lines = ["from pathlib import Path", "", "import anyio", ""]
    tail = [
        f"from {module} import {expression.partition('.')[0]}",
        "from flowkit.testing import Recording, replay",
    ]
    root = _root(target)
    if root is not None:
        way = os.path.relpath(root, path.parent.resolve())
        lines = ["import sys", *lines, tail.pop(), ""]
        lines += [
            f"sys.path.insert(0, str(Path(__file__).resolve().parent / {to_json(way)}))",
            "",
            tail.pop(),
        ]
    name = re.sub(r"\W", "_", record.workflow)
    return _TEST.format(
        run_id=record.run_id, workflow=record.workflow, began=rfc3339(record.created_at),
        data=data.name, imports="\n".join([*lines, *sorted(tail)]),
        but=f" but {', '.join(run)}" if run else "", name=name, expression=expression,
        options=f", run={to_json(list(run))}" if run else "",
    )  # fmt: skip


def _expression(target: Target) -> str:
    """How the workflow is named in its module."""
    names: dict[str, object] = vars(target.module)
    for name, each in names.items():
        if each is target.workflow and name.isidentifier():
            return name
    return target.text.rpartition(":")[2]


def _root(target: Target) -> Path | None:
    """The folder from which the module is imported, where Python does not look by itself."""
    place = target.text.rpartition(":")[0] or target.text
    if place.endswith(".py"):
        if target.module.__name__ != Path(place).stem:
            raise Problem(
                f"{clean(place)}: a test cannot import it, since its name is another module's or no "
                f"identifier. Rename the file."
            )
        return Path(place).resolve().parent
    top = target.module.__name__.partition(".")[0]
    here = Path.cwd()
    return here if (here / f"{top}.py").exists() or (here / top).is_dir() else None
