"""The commands that run workflows and look at runs. What they do stands in the modules beside; those are
imported when a command runs, so that `--help` and `--version` load no database and no model client."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli import mcp, models, stored, upkeep
from flowkit.cli.exits import Problem, command, say
from flowkit.cli.exporting import export_run, import_run
from flowkit.cli.root import (
    DbOption,
    JsonOption,
    MaybeTarget,
    ModelOption,
    OnChangeOption,
    OutOption,
    QuietOption,
    ReasoningOption,
    RunArg,
    TargetArg,
    app,
    options,
)


@app.command()
@command
def run(  # noqa: PLR0913  (a command's options)
    target: TargetArg,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="JSON|key=value|@FILE|-", help="The input; key=value repeats."
        ),
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Use the workflow's example.")] = False,
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="Start, resume or follow the run of this id.")
    ] = None,
    deadline_s: Annotated[
        float | None, typer.Option("--deadline-s", help="Fail the run after so many seconds.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="NAME=VALUE,...",
            help="What a new run may use: turns_max=20,tokens_out_max=100000,on_budget=answer.",
        ),
    ] = None,
    model: ModelOption = "",
    on_change: OnChangeOption = "refuse",
    out: OutOption = None,
    reasoning: ReasoningOption = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run a workflow: start it, take it up again, or give its stored result, whichever is true.

    With --example and without --out, artifacts are written to ./flowkit-out/RUN.
    """
    from flowkit.cli import driving
    from flowkit.cli.config import find_database
    from flowkit.cli.deploys import check_existing, policy_of
    from flowkit.cli.inputs import read_budget, read_input
    from flowkit.cli.targets import load_target
    from flowkit.graph import check_name

    if deadline_s is not None and not (math.isfinite(deadline_s) and deadline_s > 0):
        raise Problem("--deadline-s takes seconds above 0.")
    if run_id is not None:
        check_name(run_id, "--run-id")
    loaded = load_target(target)
    value = read_input(loaded, given or [], example=example)
    limits = read_budget(budget) if budget is not None else None
    forked = check_existing(find_database(db), run_id, loaded, policy_of(on_change))
    model = driving.asked_model(forked, model)
    told = options(
        db, out, json, quiet, reasoning, shared=example, on_change=on_change, model=model
    )
    begin = driving.starting(loaded, value, run_id, deadline_s, limits)
    return driving.drive(loaded, told, begin)


@app.command()
@command
def resume(  # noqa: PLR0913  (a command's options)
    ref: RunArg,
    target: MaybeTarget = None,
    step: Annotated[
        str | None, typer.Option("--step", help="The step to decide on, if there are several.")
    ] = None,
    assume_done: Annotated[
        str | None,
        typer.Option(
            "--assume-done", metavar="JSON", help="The effect happened and gave this value."
        ),
    ] = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="Do the step again.")] = False,
    fail: Annotated[bool, typer.Option("--fail", help="Let the step have failed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done with each step; do nothing.")
    ] = False,
    model: ModelOption = "",
    on_change: OnChangeOption = "refuse",
    out: OutOption = None,
    reasoning: ReasoningOption = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Go on with a run where it stopped; no finished step runs again.

    Where a step's outcome is unknown, --assume-done, --repeat or --fail decides on it first.
    """
    from flowkit.cli import driving
    from flowkit.cli.config import find_database
    from flowkit.cli.deciding import find_decision
    from flowkit.cli.deploys import check_code, policy_of
    from flowkit.cli.deploys import dry_run as look_ahead
    from flowkit.cli.looking import find_run, on_store
    from flowkit.cli.targets import target_of_run

    policy = policy_of(on_change)
    how = driving.check_decision(step, assume_done, (("repeat", repeat), ("fail", fail)))
    database = find_database(db)
    record = on_store(database, lambda store: find_run(store, ref))
    loaded = target_of_run(record.workflow, target)
    if dry_run:
        if how:
            raise Problem(
                "--dry-run decides nothing: leave --assume-done, --repeat and --fail out."
            )
        return look_ahead(database, record, loaded, policy, json=json)
    decision = find_decision(database, record, loaded, how, step, assume_done)
    model = driving.asked_model(check_code(database, record, loaded, policy, "resume"), model)
    told = options(db, out, json, quiet, reasoning, on_change=on_change, model=model)
    return driving.drive(loaded, told, driving.resuming(record.run_id, database, decision))


@app.command()
@command
def retry(  # noqa: PLR0913  (a command's options)
    ref: RunArg,
    target: MaybeTarget = None,
    model: ModelOption = "",
    on_change: OnChangeOption = "refuse",
    out: OutOption = None,
    reasoning: ReasoningOption = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Try the failed steps of a failed run again; what was finished is kept."""
    from flowkit.cli import driving
    from flowkit.cli.config import find_database
    from flowkit.cli.deciding import refuse_driven
    from flowkit.cli.deploys import check_code, policy_of
    from flowkit.cli.looking import find_run, on_store
    from flowkit.cli.targets import target_of_run

    policy = policy_of(on_change)
    database = find_database(db)
    record = on_store(database, lambda store: find_run(store, ref))
    refuse_driven(record, database)
    if record.status not in ("failed", "quarantined"):
        why = (
            f"run {record.run_id} is {record.status}: only failed and quarantined runs are retried."
        )
        raise Problem(f"{why} See flowkit show {record.run_id}.")
    loaded = target_of_run(record.workflow, target)
    model = driving.asked_model(check_code(database, record, loaded, policy, "retry"), model)
    told = options(db, out, json, quiet, reasoning, on_change=on_change, model=model)
    return driving.drive(loaded, told, driving.retrying(record.run_id, database))


@app.command()
@command
def cancel(
    ref: RunArg,
    target: MaybeTarget = None,
    reason: Annotated[str, typer.Option("--reason", help="Kept with the run.")] = "",
    db: DbOption = None,
    json: JsonOption = False,
) -> int:
    """Ask for a run's end. If nobody drives the run and its code can be found, end it here."""
    from flowkit.cli.config import find_database
    from flowkit.cli.deciding import cancel_run

    return cancel_run(find_database(db), ref, target, reason, json=json)


@app.command()
@command
def signal(
    ref: RunArg,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The signal that a step waits for.")],
    value: Annotated[
        str, typer.Argument(metavar="[VALUE]", help="Its value as JSON, @FILE or -.")
    ] = "null",
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Give a run a signal; it is kept until a step waits for it."""
    from flowkit.cli.config import find_database
    from flowkit.cli.inputs import read_json
    from flowkit.cli.looking import leave_message, print_posted, signals_of

    data = read_json(value, "VALUE")
    database = find_database(db)
    waited = signals_of(database, ref)
    record = leave_message(
        database, ref, lambda engine, run_id: engine.signal(run_id, name, data), "signal"
    )
    if not json and name not in waited:
        listed = f" The run waits for {', '.join(map(repr, waited))}." if waited else ""
        say(f"no step waits for signal {name!r} now; it is kept until one does.{listed}")
    print_posted(record, json=json, database=database)


@app.command()
@command
def approve(
    ref: RunArg,
    step: Annotated[
        str, typer.Argument(metavar="[STEP]", help="The step that asks, if several do.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Say yes: the step may begin, once.")] = False,
    deny: Annotated[bool, typer.Option("--deny", help="Say no: the step fails.")] = False,
    by: Annotated[str, typer.Option(help="Who says so; kept in the journal.")] = "",
    note: Annotated[str, typer.Option(help="What the step's planner is to read.")] = "",
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a step asks a person before it begins, with its inputs; answer with --yes or --deny."""
    from flowkit.cli.approving import Answer, answer_question
    from flowkit.cli.config import find_database

    if yes and deny:
        raise typer.BadParameter("--yes or --deny, not both.")
    answer = Answer(yes, by, note) if yes or deny else None
    raise typer.Exit(answer_question(find_database(db), ref, step, answer, json=json))


@app.command("ls")
@app.command("list", hidden=True)
@command
def ls(
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only runs of this status; repeats.")
    ] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only its runs.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only runs since 90m, 2h, 3d ago, or a date.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    from flowkit.cli.config import find_database
    from flowkit.cli.looking import list_runs, print_runs, record_data
    from flowkit.cli.text import to_json
    from flowkit.events import FINAL

    known = sorted(FINAL | {"pending", "running", "waiting"})
    if any(each not in known for each in status or []):
        raise Problem(f"--status is one of {', '.join(known)}.")
    records = list_runs(find_database(db), status or [], workflow, since, limit)
    if json:
        for record in records:
            print(to_json(record_data(record)))
    else:
        print_runs(records)


@app.command("show")
@app.command("inspect", hidden=True)
@command
def show(
    ref: RunArg,
    step: Annotated[str | None, typer.Option("--step", metavar="KEY", help="One step.")] = None,
    events: Annotated[bool, typer.Option("--events", help="The journal as well.")] = False,
    reasoning: ReasoningOption = False,
    db: DbOption = None,
    json: JsonOption = False,
) -> int:
    """Show how a run stands, why it waits or failed, what its models used, and what to do next.

    With --step: one step or one turn, and the conversation with its model.
    """
    from flowkit.cli.config import find_database
    from flowkit.cli.looking import show_run

    database = find_database(db)
    return show_run(database, ref, step=step, events=events, json=json, reasoning=reasoning)


@app.command()
@command
def watch(
    ref: RunArg,
    reasoning: ReasoningOption = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Follow a run live, whoever drives it, to its end; the exit code is the run's."""
    from flowkit.cli.config import find_database
    from flowkit.cli.looking import watch_run

    return watch_run(find_database(db), ref, json=json, quiet=quiet, reasoning=reasoning)


@app.command()
@command
def graph(
    target: TargetArg,
    form: Annotated[
        str, typer.Option("--format", "-f", metavar="mermaid|dot|svg|json", help="What to print.")
    ] = "mermaid",
) -> None:
    """Print a workflow's graph; nothing runs."""
    from flowkit.cli.targets import load_target
    from flowkit.view.draw import FORMATS, Format, draw

    known: dict[str, Format] = {each: each for each in FORMATS}
    chosen = known.get(form)
    if chosen is None:
        raise Problem(f"--format is one of {', '.join(FORMATS)}, not {form!r}.")
    workflow = load_target(target).workflow
    print(draw(workflow.bound(), workflow.name, chosen), end="")


@app.command()
@command
def validate(target: TargetArg, json: JsonOption = False) -> None:
    """Check a workflow without running it: types, inputs, cycles, steps that reach nothing."""
    from flowkit.cli.targets import load_target
    from flowkit.cli.text import counted, to_json
    from flowkit.values import show_type

    workflow = load_target(target).workflow
    takes, gives, steps = show_type(workflow.takes), show_type(workflow.gives), workflow.graph.steps
    if json:
        found = {"workflow": workflow.name, "takes": takes, "gives": gives, "steps": len(steps)}
        print(to_json({**found, "valid": True}))
    else:
        print(f"{workflow.name}: valid; {takes} -> {gives}, {counted(len(steps), 'step')}.")


@app.command()
@command
def doctor(
    check_model: Annotated[
        bool, typer.Option("--check-model", help="Ask the model one short question (network).")
    ] = False,
    db: DbOption = None,
    json: JsonOption = False,
) -> int:
    """Check this installation: versions, the database, the model's configuration."""
    from flowkit.cli.config import find_database
    from flowkit.cli.doctor import diagnose

    return diagnose(find_database(db), check_model=check_model, json=json)


@app.command()
@command
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to work.")] = Path(
        "flowkit-demo"
    ),
    quiet: QuietOption = False,
) -> int:
    """Run the stock analysis, kill its process half way, resume it, and show that nothing ran twice."""
    from flowkit.cli.demo import demonstrate

    return demonstrate(out, quiet=quiet)


@app.command()
@command
def chaos(  # noqa: PLR0913  (a command and its options)
    target: TargetArg,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="JSON|key=value|@FILE|-", help="The input; else the example."
        ),
    ] = None,
    faults: Annotated[
        str, typer.Option("--faults", metavar="KINDS", help="Some of kill,lost,tool,model.")
    ] = "kill,lost,tool,model",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many faults of each kind.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="PATH", help="A field that may differ; repeats."),
    ] = None,
    signals: Annotated[
        list[str] | None,
        typer.Option("--signal", metavar="NAME=JSON", help="What a wait is given; repeats."),
    ] = None,
    ledger: Annotated[
        str, typer.Option(metavar="NAME", help="A function beside it: what has happened outside.")
    ] = "",
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.1, help="A run must end within it.")
    ] = 60.0,
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="Of all these runs; else a new one each time.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Crash a workflow everywhere, resume it, and tell whether the result was the same.

    The workflow's tools really run, many times: give it tools that may.
    """
    from flowkit.cli.chaos import kinds_of, signals_of, unleash
    from flowkit.cli.inputs import read_input, read_json
    from flowkit.cli.targets import load_target
    from flowkit.graph import check_name

    kinds, words = kinds_of(faults), signals_of(signals or [], read_json)
    if run_id is not None:
        check_name(run_id, "--run-id")
    loaded = load_target(target)
    value = read_input(loaded, given or [], example=not given)
    return unleash(
        loaded, value, kinds, ignore=ignore or [], signals=words, limit=limit,
        ledger=ledger, timeout_s=timeout_s, run_id=run_id, json=json,
    )  # fmt: skip


stored.register(app)
app.add_typer(mcp.program)
models.register(app)
app.command()(upkeep.gc)
app.command()(upkeep.vacuum)
app.command("export")(export_run)
app.command("import")(import_run)

__all__ = ["app"]
