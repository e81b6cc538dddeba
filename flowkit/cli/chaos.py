"""`flowkit chaos`: crash a workflow everywhere, and tell in a table what came of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import anyio

from flowkit.cli import exits
from flowkit.cli.driving import entered, model_for
from flowkit.cli.exits import Problem, say
from flowkit.cli.table import Column, print_table
from flowkit.cli.targets import Target
from flowkit.cli.text import to_json
from flowkit.model import OfflineModel
from flowkit.testing.crash import KINDS, Crash, CrashReport, Kind, NoReference, crash_everywhere

_COLUMNS = (
    Column("FAULT"), Column("WHERE", wide=True), Column("RESULT", wide=True), Column("RAN TWICE", wide=True),
    Column("VERDICT", status=True),
)  # fmt: skip


def kinds_of(text: str) -> Sequence[Kind]:
    """The kinds of fault that `--faults` names."""
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in KINDS]
    if unknown or not wanted:
        raise Problem(f"--faults takes some of {', '.join(KINDS)}, joined by commas; not {text!r}.")
    return [kind for kind in KINDS if kind in wanted]


def signals_of(given: Sequence[str], read: Any) -> Mapping[str, Any]:
    """What `--signal NAME=JSON` gives the run's waits."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise Problem(f"--signal takes NAME=JSON, not {text!r}.")
        found[name] = read(value, "--signal")
    return found


def unleash(  # noqa: PLR0913  (a command and its options)
    target: Target,
    value: Any,
    kinds: Sequence[Kind],
    *,
    ignore: Sequence[str],
    signals: Mapping[str, Any],
    limit: int | None,
    ledger: str,
    timeout_s: float,
    run_id: str | None,
    json: bool,
) -> int:
    """Crash the workflow, print what came of it, and give the exit code."""
    outside = _ledger_of(target, ledger) if ledger else None
    say("the workflow's tools really run, once for each fault and more; only crashes are made up.")
    # A model that says something else each time would make every result another one.
    model = OfflineModel(target.rules) if target.rules else model_for(target)
    ignored = [*getattr(target.module, "VOLATILE", ()), *ignore]
    done: list[Crash] = []

    def tell(crash: Crash) -> None:
        done.append(crash)
        if crash.violates:
            say(str(crash))
        elif len(done) % 10 == 0:
            say(f"{len(done)} faults, {sum(each.violates for each in done)} violations")

    async def go() -> CrashReport:
        async with entered(target.resources) as resources:
            return await crash_everywhere(
                target.workflow, value, model=model, resources=resources, signals=signals,
                ignore=ignored, faults=kinds, ledger=outside, limit=limit, timeout_s=timeout_s,
                on_crash=tell, check=False, run_id=run_id,
            )  # fmt: skip

    with contextlib.redirect_stdout(sys.stderr):  # what nodes print is no data
        try:
            report = anyio.run(go)
        except NoReference as error:
            raise Problem(str(error), exits.FAILED) from error
    for path in report.unused:
        if path in ignore:
            say(f"--ignore {path}: the result has no such field; a path is like pages.*.sha256.")
    if json:
        print(to_json(_data(report, ignored)))
    else:
        print_table(_COLUMNS, [_row(crash) for crash in report.crashes])
        if ignored:
            print(f"not compared: {', '.join(ignored)}")
        print(report)
    return exits.FAILED if report.violations else exits.SUCCESS


def _ledger_of(target: Target, name: str) -> Callable[[], Sequence[Any]]:
    found = getattr(target.module, name, None)
    if not callable(found):
        raise Problem(f"--ledger {name}: {target.module.__name__} has no function of that name.")
    return cast("Callable[[], Sequence[Any]]", found)


def _row(crash: Crash) -> Sequence[str]:
    result = "same" if crash.same else crash.difference
    if crash.instead:
        result = f"{result} (by {crash.instead})"
    if crash.outside:
        result = f"{result}; in the ledger {crash.outside}"
    twice = [f"MUST NOT: {each}" for each in crash.repeated]
    twice += [f"{each}, in flight" for each in crash.again]
    twice += [f"{step}: asked, not repeated" for step in crash.decided]
    verdict = "failed" if crash.violates else "done" if crash.same else "other"
    return crash.kind, crash.at, result, "; ".join(twice) or "-", verdict


def _data(report: CrashReport, ignored: Sequence[str]) -> dict[str, Any]:
    return {
        "workflow": report.workflow,
        "boundaries": report.boundaries,
        "faults": len(report.crashes),
        "same": sum(crash.same for crash in report.crashes),
        "repeated": sum(len(crash.repeated) for crash in report.crashes),
        "violations": len(report.violations),
        "ignored": list(ignored),
        "crashes": [
            {
                "fault": crash.kind,
                "where": crash.at,
                "same": crash.same,
                "difference": crash.difference or None,
                "instead": crash.instead or None,
                "repeated": list(crash.repeated),
                "again": list(crash.again),
                "decided": list(crash.decided),
                "outside": crash.outside or None,
                "violates": crash.violates,
            }
            for crash in report.crashes
        ],
    }
