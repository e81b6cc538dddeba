"""The commands on what is stored: go back in a run, compare two."""

from __future__ import annotations

from typing import Annotated

import typer

from flowkit.cli.exits import command
from flowkit.cli.root import (
    DbOption,
    JsonOption,
    MaybeTarget,
    OnChangeOption,
    OutOption,
    QuietOption,
    ReasoningOption,
    RunArg,
    options,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(command(fork))
    app.command()(command(diff))


def fork(  # noqa: PLR0913  (a command's options)
    ref: RunArg,
    target: MaybeTarget = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="STEP", help="A step that is done again; repeats."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="STEP=JSON|STEP=@FILE", help="A result in place of a step's; repeats."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model that the new run asks.")
    ] = "",
    run_id: Annotated[str | None, typer.Option("--run-id", help="The new run's id.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would share and do again; do nothing.")
    ] = False,
    on_change: OnChangeOption = "refuse",
    out: OutOption = None,
    reasoning: ReasoningOption = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Begin a new run as this one is now, and do some steps again; finished steps are shared.

    A step is named with its round or turn: write, write@2, plan/t5, plan/t5/search, pages/17.
    """
    from flowkit.cli import driving
    from flowkit.cli import travel as going_back
    from flowkit.cli.config import find_database
    from flowkit.cli.deploys import asked_model, load_journal, policy_of
    from flowkit.cli.looking import find_run, on_store
    from flowkit.cli.targets import target_of_run
    from flowkit.graph import check_name
    from flowkit.rewind import fold

    policy, named = policy_of(on_change), going_back.check_model(model)
    if run_id is not None:
        check_name(run_id, "--run-id")
    database = find_database(db)
    record = on_store(database, lambda store: find_run(store, ref))
    loaded = target_of_run(record.workflow, target)
    journal = load_journal(database, record.run_id)
    values = going_back.read_values(given or [], fold(journal), loaded)
    wanted = going_back.Wanted(at or [], values, named, run_id, policy)
    plan = going_back.planned(journal, wanted, loaded, database)
    going_back.check_free(database, journal.record, run_id)
    asked = named or asked_model(database, record.run_id)
    if dry_run:
        driving.model_for(loaded, asked)
        return going_back.dry_run(record, plan, wanted, json=json)
    told = options(db, out, json, quiet, reasoning, on_change=on_change, model=asked)
    driving.model_for(loaded, asked)  # one that cannot be asked is refused before anything is said
    going_back.tell_plan(record.run_id, plan, wanted, quiet=quiet)
    return driving.drive(loaded, told, going_back.forking(record.run_id, wanted))


def diff(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The run to compare it with.")],
    every: Annotated[bool, typer.Option("--all", help="Also the steps that are the same.")] = False,
    db: DbOption = None,
    json: JsonOption = False,
) -> int:
    """Compare what two runs came to, step by step; exit code 1 if they differ."""
    from flowkit.cli.comparing import diff_runs
    from flowkit.cli.config import find_database

    return diff_runs(find_database(db), first, second, every=every, json=json)
