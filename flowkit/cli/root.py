"""The command itself and what its subcommands share: arguments and options that mean the same everywhere."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="flowkit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Long agent workflows that cannot lose their work.",
    epilog=(
        "TARGET is module:object, file.py:object, or the name of a shipped workflow. RUN is a run's id, a "
        "unique beginning or end of it (4 characters), or @last. Exit codes: 0 success, 1 the run failed, 2 usage, 3 waiting, "
        "4 not found, 75 try later, 78 configuration, 124 deadline, 130 SIGINT, 143 SIGTERM."
    ),
)

TargetArg = Annotated[
    str, typer.Argument(metavar="TARGET", help="module:object, file.py:object, or a shipped name.")
]
MaybeTarget = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET]", help="Where the workflow's code is, if its name does not say."
    ),
]
RunArg = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's id, a unique beginning or end of it, or @last."),
]
DbOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="PATH|URL",
        help="The database, a file or postgresql://...; else $FLOWKIT_DB, flowkit.toml, data dir.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, with stable keys.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
ReasoningOption = Annotated[
    bool, typer.Option("--reasoning", help="Show models' reasoning whole, not its first words.")
]
OnChangeOption = Annotated[
    str,
    typer.Option(
        "--on-change",
        metavar="refuse|rerun|keep",
        help="What becomes of finished steps whose code has changed since.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="The model to ask, for $FLOWKIT_MODEL; local, local:NAME or local:FILE is in this process.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Write the result's artifacts there, by their names."
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"flowkit {version('flowkit-agents')}")
        except PackageNotFoundError:
            print("flowkit (from a checkout, not installed)")
        raise typer.Exit


@app.callback()
def root(
    shown: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Long agent workflows that cannot lose their work."""


def options(
    db: str | None,
    out: Path | None,
    json: bool,
    quiet: bool,
    reasoning: bool = False,
    *,
    shared: bool = False,
    on_change: str = "refuse",
    model: str = "",
) -> Any:
    from flowkit.cli.config import find_database
    from flowkit.cli.deploys import policy_of
    from flowkit.cli.driving import Options
    from flowkit.cli.results import Folder

    folder = Folder.made(out) if out is not None else None
    if folder is None and shared:
        folder = Folder.made(Path("flowkit-out"), shared=True)
    return Options(
        find_database(db), folder, json=json, quiet=quiet, reasoning=reasoning,
        on_change=policy_of(on_change), model=model,
    )  # fmt: skip
