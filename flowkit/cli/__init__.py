"""The command line. `main` is the command `flowkit`; commands are declared in `flowkit.cli.app`.

Data goes to stdout, everything else to stderr. What a run has made is never trusted: control
characters and markup in it are shown, not obeyed. Exit codes are in `flowkit.cli.exits`.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` names; ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets an escape, not a traceback.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        from flowkit.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "platformdirs"):
            raise
        text = f'flowkit: the command line needs {error.name}: pip install "flowkit-agents[cli]"'
        print(text, file=sys.stderr)
        sys.exit(78)  # `flowkit.cli.exits.CONFIGURATION`, which cannot be loaded either
    app(prog_name="flowkit")
