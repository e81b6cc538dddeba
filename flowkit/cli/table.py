"""Tables on stdout: aligned, coloured only for a person, and never markup."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from flowkit.cli.text import clean

_COLOURS = {
    "succeeded": "green",
    "done": "green",
    "failed": "red",
    "quarantined": "red",
    "unknown": "red",
    "begun": "yellow",
    "rejected": "yellow",
    "retrying": "yellow",
    "waiting": "magenta",
    "running": "cyan",
    "cancelled": "bright_black",
    "pending": "bright_black",
}


@dataclass(frozen=True, slots=True)
class Column:
    """`wide` columns give way on a terminal; `status` ones get the status's colour."""

    name: str
    right: bool = False
    wide: bool = False
    status: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns; nothing but the head where there are none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from flowkit.cli.tree import is_coloured

    terminal = sys.stdout.isatty()
    cells = [[clean(cell) for cell in row] for row in rows]
    pages = io.StringIO()
    console = Console(
        file=sys.stdout if terminal else pages,
        no_color=not is_coloured(terminal),
        highlight=False,
        markup=False,
        emoji=False,
        # A program that reads the table wants whole lines.
        width=None if terminal else _width(columns, cells),
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not (terminal and column.wide),
            overflow="fold",
        )
    for row in cells:
        styled = [
            Text(cell, _COLOURS.get(cell.partition(" ")[0], "") if column.status else "")
            for column, cell in zip(columns, row, strict=True)
        ]
        table.add_row(*styled)
    console.print(table)
    for line in pages.getvalue().splitlines():
        print(line.rstrip())


def _width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """Room for every cell, counting two columns for each character, since some are wide."""
    widest = (
        max([len(column.name), *(2 * len(row[index]) for row in rows)])
        for index, column in enumerate(columns)
    )
    return sum(widest) + 2 * len(columns) + 1
