"""`flowkit export` and `flowkit import`: the commands and their options. What they do stands beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.exits import Problem, command

_Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's id, a unique beginning or end of it, or @last."),
]
_Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET]",
        help="With --as-test: where the workflow's code is, if its name does not say.",
    ),
]
_Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="PATH|URL",
        help="The database, a file or postgresql://...; else $FLOWKIT_DB, flowkit.toml, data dir.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, with stable keys.")]


@command
def export_run(
    ref: _Run,
    target: _Target = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write there; else to stdout.")
    ] = None,
    as_test: Annotated[
        bool, typer.Option("--as-test", help="Write a pytest file that replays the run.")
    ] = False,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run", metavar="TOOL", help="With --as-test: a tool that the test runs; repeats."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    db: _Db = None,
    json: _Json = False,
) -> int:
    """Write a run as one file, which `flowkit import` reads into any database; or as a test.

    With --as-test: test_WORKFLOW.py (or --out) and the recording beside it, as .jsonl.
    """
    from flowkit.cli.config import find_database

    if not as_test and (target is not None or run):
        raise Problem("TARGET and --run go with --as-test.")
    if as_test:
        from flowkit.cli.testfile import write_test

        return write_test(find_database(db), ref, target, out, run or [], force=force, json=json)
    from flowkit.cli.runfile import export_file, export_stdout

    if out is not None:
        return export_file(find_database(db), ref, out, force=force, json=json)
    if json or force:
        raise Problem("--json and --force go with --out FILE.")
    return export_stdout(find_database(db), ref)


@command
def import_run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `flowkit export` wrote.")],
    run_id: Annotated[
        str | None, typer.Option("--as", metavar="RUN_ID", help="Give the run another id.")
    ] = None,
    db: _Db = None,
    json: _Json = False,
) -> int:
    """Put an exported run into the database, to be shown, resumed, and read like any other."""
    from flowkit.cli.config import find_database
    from flowkit.cli.runfile import import_file

    return import_file(find_database(db), file, run_id, json=json)
