"""`flowkit mcp`: pin the tools of MCP servers, and serve workflows as tools."""

from __future__ import annotations

from typing import Annotated

import typer

from flowkit.cli.exits import Problem, command
from flowkit.cli.root import DbOption, JsonOption, TargetArg

program = typer.Typer(
    name="mcp",
    no_args_is_help=True,
    add_completion=False,
    help="The Model Context Protocol: tools of servers, and workflows as tools.",
)


@program.command()
@command
def pin(
    target: TargetArg,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a server has changed.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Write down what the MCP servers of a workflow offer. Review it like code: models do what it says."""
    from flowkit.cli.pinning import pin as write_down

    return write_down(target, check=check, json=json)


@program.command()
@command
def serve(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="TARGET...", help="The workflows; each becomes a tool."),
    ],
    port: Annotated[
        int | None,
        typer.Option("--http", metavar="PORT", help="Over HTTP on 127.0.0.1, not stdio."),
    ] = None,
    wait_s: Annotated[
        float,
        typer.Option("--wait-s", min=0.0, help="A call is answered within it, done or not."),
    ] = 50.0,
    db: DbOption = None,
) -> int:
    """Offer workflows as tools over the Model Context Protocol, and their runs as resources.

    A call starts a durable run. Runs that a server's end has interrupted go on when it is started again.
    """
    from flowkit.cli.config import find_database
    from flowkit.cli.serving import serve as hold
    from flowkit.cli.targets import load_target

    if port is not None and not 0 <= port <= 65535:
        raise Problem(f"--http takes a port, 0 to 65535, not {port}.")
    return hold([load_target(each) for each in targets], find_database(db), port, wait_s)
