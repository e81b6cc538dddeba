"""`flowkit model`: the model files of this machine, fetched, listed and served."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.exits import NOT_FOUND, TRY_LATER, Problem, command, say
from flowkit.cli.root import JsonOption, QuietOption

_TOLD_S = 0.5
"""Seconds between two progress lines on a terminal."""

_NameArg = Annotated[str, typer.Argument(metavar="NAME", help="A name of flowkit model list.")]
_FileArg = Annotated[
    str, typer.Argument(metavar="[NAME|FILE]", help="A known name, or the path of a GGUF file.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=__doc__)
    group.command("fetch")(command(fetch))
    group.command("list")(command(listing))
    group.command("serve")(command(serve))
    app.add_typer(group, name="model")


def fetch(
    name: _NameArg,
    source: Annotated[
        Path | None,
        typer.Option("--from-file", metavar="FILE", help="Take this file instead of the network."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Fetch a known model file, or go on where that was stopped; its size and SHA-256 must be right."""
    from flowkit.errors import ModelUnavailable
    from flowkit.model import fetching, gguf

    row = gguf.known().get(name)
    if row is None:
        known = ", ".join(gguf.known())
        raise Problem(
            f"no model file named {name!r} is known; there are {known}. Another file is used by its path: "
            "--model local:FILE",
            NOT_FOUND,
        )
    into = gguf.folder(os.environ)
    progress = None if quiet else _Progress(row.name)
    try:
        if source is not None:
            path = fetching.take(row, source, into, progress=progress)
        else:
            path = fetching.fetch(row, into, progress=progress)
    except ModelUnavailable as error:
        raise Problem(str(error), TRY_LATER) from error
    finally:
        if progress is not None:
            progress.end()
    print(path)


def listing(json: JsonOption = False) -> None:
    """List the known model files, and what is here."""
    from flowkit.cli.table import Column, print_table
    from flowkit.cli.text import to_json
    from flowkit.model import gguf

    here = gguf.there(os.environ)
    rows = [
        {
            "name": row.name,
            "file": row.file,
            "size": row.size,
            "memory_mb": row.memory_mb,
            "licence": row.licence,
            "path": str(here[row.name]) if row.name in here else None,
            "about": row.about,
        }
        for row in gguf.known().values()
    ]
    others = [path for name, path in here.items() if name not in gguf.known()]
    if json:
        for row in rows:
            print(to_json(row))
        for path in others:
            size = path.stat().st_size
            print(to_json({"name": None, "file": path.name, "size": size, "path": str(path)}))
        return
    columns = [
        Column("NAME"), Column("HERE"), Column("GB", right=True), Column("MEMORY GB", right=True),
        Column("LICENCE"), Column("FOR", wide=True),
    ]  # fmt: skip
    table = [
        [
            str(row["name"]), "yes" if row["path"] else "no", f"{_gb(row['size']):.1f}",
            f"{float(str(row['memory_mb'])) / 1000:.1f}", str(row["licence"]), str(row["about"]),
        ]
        for row in rows
    ]  # fmt: skip
    table += [[path.name, "yes", f"{_gb(path.stat().st_size):.1f}", "", "", ""] for path in others]
    print_table(columns, table)


def _gb(size: object) -> float:
    return int(str(size)) / 1e9


def serve(
    file: _FileArg = "local",
    port: Annotated[int, typer.Option("--port", help="Of 127.0.0.1; 0 for a free one.")] = 8080,
    context: Annotated[int, typer.Option("--context", min=256, help="Tokens of a request.")] = 8192,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Requests side by side.")] = 1,
    threads: Annotated[
        int, typer.Option("--threads", min=0, help="0: one less than the cores.")
    ] = 0,
    template: Annotated[
        str,
        typer.Option("--template", metavar="chatml|FILE", help="In place of the file's own."),
    ] = "",
    once: Annotated[
        bool, typer.Option("--measure", help="Measure, print, and end; serve nothing.")
    ] = False,
) -> None:
    """Serve a model file to OpenAI clients of this machine; print tokens per second and memory.

    FLOWKIT_API_KEY is the key that they must have, if it is set.
    """
    from flowkit.cli.model_server import serve_file
    from flowkit.model import gguf
    from flowkit.model.llama import Serving

    path = gguf.found(file, os.environ)
    key = os.environ.get("FLOWKIT_API_KEY", "").strip()
    serving = Serving(path, context, slots, threads, template, port, key, open=not (key or once))
    serve_file(serving, once=once)


class _Progress:
    """One line on stderr: rewritten on a terminal, else said at each tenth."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said = -1.0
        self._open = False

    def __call__(self, have: int, size: int) -> None:
        tenth = have * 10 // size
        if sys.stderr.isatty():
            now = time.monotonic()
            if now - self._said >= _TOLD_S or have == size:
                self._said, self._open = now, True
                text = f"\rflowkit: {self._name}: {have:,} of {size:,} bytes ({have / size:.0%})"
                print(text, end="", file=sys.stderr, flush=True)
        elif tenth > self._said:
            self._said = tenth
            say(f"{self._name}: {have:,} of {size:,} bytes ({have / size:.0%})")

    def end(self) -> None:
        if self._open:
            print(file=sys.stderr)
