"""`flowkit demo`: run the stock analysis, kill its process in the middle, resume, count the effects."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import anyio

from flowkit.cli import exits
from flowkit.cli.config import Database
from flowkit.cli.demo_worker import HELD
from flowkit.cli.driving import Outcome, drive_on, model_for, note_model, resuming
from flowkit.cli.effects import (
    FINISHED,
    MODEL,
    Attempt,
    CountedModel,
    EffectLedger,
    count,
    ended_attempts,
    with_ledger,
)
from flowkit.cli.exits import Problem, complain
from flowkit.cli.follow import TICK_S, Show, View
from flowkit.cli.results import Folder, artifacts_in, failure, run_data
from flowkit.cli.table import Column, print_table
from flowkit.cli.targets import Target, load_target
from flowkit.cli.text import clean
from flowkit.cli.tree import show_for
from flowkit.errors import RunNotFound
from flowkit.ports import Journal, World
from flowkit.rewind import fold
from flowkit.store import SqlStore

WORKFLOW = "stock_analysis"

KILL_WITHIN_S = 120.0
"""The worker must come to the step that it is killed in within this time."""

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo works: its folder, database, ledger and run."""

    folder: Folder
    database: Path
    ledger: EffectLedger
    log: Path
    run_id: str

    @classmethod
    def set_up(cls, out: Path) -> Stage:
        folder = Folder.made(out.absolute())
        run_id = World().new_id()
        short = run_id.replace("-", "")[:14]
        return cls(
            folder,
            folder.path / "demo.db",
            EffectLedger(folder.path / f"effects-{short}.jsonl"),
            folder.path / "worker.log",
            run_id,
        )


def demonstrate(out: Path, *, quiet: bool) -> int:
    """The whole demo; 1 if a step that had finished ran again."""
    target = load_target(WORKFLOW)
    stage = Stage.set_up(out)
    show = show_for(quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr):
        note_model(target, model_for(target), show)
        show.note(f"1. a worker process runs {WORKFLOW}; its journal is {stage.database}")
        killed = _run_and_kill(stage, show)
        journal = anyio.run(_journal, stage)
        ended = ended_attempts(journal.events)
        views = fold(journal).views()
        done = sum(view.status == "done" for view in views)
        show.note(
            f"2. killed worker {killed} with SIGKILL: {done} of {len(views)} steps were finished, "
            f"{HELD} was in flight"
        )
        show.note(f"3. this process {os.getpid()} resumes the run from its journal")
        outcome = anyio.run(_resume, stage, target, show)
    error = failure(outcome.state)
    if error is not None:
        return complain(error)
    if outcome.record.status != "succeeded":
        raise Problem(f"the run is {outcome.record.status}.", exits.FAILED)
    code = _tell(stage, killed, ended)
    for name, path in outcome.files.items():
        print(f"{clean(name) + ':':<14}{clean(path)}")
    print(f"{'ledger:':<14}{clean(stage.ledger.path)}")
    print(f"look at it:   flowkit show {stage.run_id} --db {clean(stage.database)}")
    return code


# ---- the worker's life and death


def _run_and_kill(stage: Stage, show: Show) -> int:
    """Start the worker, kill it where it is meant to die; its pid."""
    with _worker(stage) as worker:
        anyio.run(_until_held, stage, worker, show)
        worker.send_signal(signal.SIGKILL)
        died = worker.wait()
    if died != -signal.SIGKILL:
        raise Problem(f"the worker ended by itself ({died}); see {stage.log}.", exits.FAILED)
    return worker.pid


@contextlib.contextmanager
def _worker(stage: Stage) -> Generator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "flowkit.cli.demo_worker"]
    command += [str(stage.database), stage.run_id, str(stage.ledger.path)]
    with stage.log.open("wb") as log:
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield worker
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


async def _until_held(stage: Stage, worker: subprocess.Popen[bytes], show: Show) -> None:
    """Follow the journal until the step to die in has run and nothing else can go on."""
    view = View(stage.run_id, WORKFLOW)
    show.start(view)
    try:
        with anyio.fail_after(KILL_WITHIN_S):
            while not stage.database.exists():
                await _alive(worker, stage, show)
            async with SqlStore(stage.database) as store:
                while not await _is_held(stage, store, view, show):
                    await _alive(worker, stage, show)
    except TimeoutError as error:
        text = f"the worker did not get to {HELD} in {KILL_WITHIN_S:.0f} s; see {stage.log}."
        raise Problem(text, exits.FAILED) from error
    finally:
        show.stop()


async def _alive(worker: subprocess.Popen[bytes], stage: Stage, show: Show) -> None:
    if worker.poll() is not None:
        last = stage.log.read_text(errors="replace").strip().splitlines()[-1:]
        text = f"the worker ended before it was killed: {' '.join(last) or worker.returncode}"
        raise Problem(text, exits.FAILED)
    show.tick()
    await anyio.sleep(min(_POLL_S, TICK_S))


async def _is_held(stage: Stage, store: SqlStore, view: View, show: Show) -> bool:
    """Whether the step is in flight, with its effect done, and everything else waits for it."""
    try:
        journal = await store.load(stage.run_id, after=view.state.seq)
    except RunNotFound:
        return False
    for event in journal.events:
        view.feed(event)
        show.event(event, view, None)
    ready = set(view.state.ready)
    held = any(effect.step == HELD for effect in stage.ledger.read())
    retrying = any(slot.status == "retrying" for slot in view.state.slots.values())
    return held and ready == {HELD} and not retrying


async def _journal(stage: Stage) -> Journal:
    async with SqlStore(stage.database) as store:
        return await store.load(stage.run_id)


async def _resume(stage: Stage, target: Target, show: Show) -> Outcome:
    model = CountedModel(model_for(target), stage.ledger)
    counted = Target(with_ledger(target.workflow, stage.ledger), target.module, target.text)
    async with SqlStore(stage.database) as store:
        outcome = await drive_on(
            store, counted, resuming(stage.run_id, Database(str(stage.database))), model, show
        )
        outcome.data = await run_data(outcome.record, outcome.state, store, None)
        found = artifacts_in(outcome.data["result"])
        outcome.files = await stage.folder.save(found, store)
        return outcome


# ---- the count


def _tell(stage: Stage, killed: int, ended: frozenset[Attempt]) -> int:
    """Print how often each step ran in each process; 1 if one that had finished ran again."""
    effects = stage.ledger.read()
    counts = count([each for each in effects if each.step != MODEL], killed, ended)
    columns = [
        Column("STEP"), Column("WHEN KILLED"), Column("RAN BEFORE", right=True),
        Column("RAN AFTER", right=True), Column("SO IT RAN"),
    ]  # fmt: skip
    rows = [
        [each.step, each.state, str(each.before), str(each.after), each.verdict] for each in counts
    ]
    print_table(columns, rows)
    asked = [each.pid == killed for each in effects if each.step == MODEL]
    print(f"model requests: {sum(asked)} before the kill, {len(asked) - sum(asked)} after it")
    wrong = [each.step for each in counts if each.wrong]
    if wrong:
        print(f"FAILED: {', '.join(wrong)} ran more often than promised")
        return exits.FAILED
    finished = sum(each.state == FINISHED for each in counts)
    print(
        f"no finished step ran twice: {finished} finished before the kill, 0 of them ran after it"
    )
    return exits.SUCCESS
