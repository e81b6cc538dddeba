"""Which artifacts nothing refers to, in a database.

Events are looked through in the order they came, then inboxes, then artifacts. So a reference that is
handed on while this goes on is found, if not where it was, then where it went: what is written anew
comes behind.

It is done in portions, each a read of its own: a read that lasts keeps SQLite's log from being emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from flowkit.store import statements
from flowkit.store.marks import Marks
from flowkit.store.place import Ask, Stored

T = TypeVar("T")

_ROWS = 500
_ARTIFACTS = 20
_ASKED_MAX = 500


class Reader(Protocol):
    """Does something with what a statement gives, in one read of the database."""

    async def __call__(self, work: Callable[[Ask], T], /) -> T: ...


async def unreferenced(
    read: Reader, put_before: float, without: Collection[str]
) -> Mapping[str, int]:
    """Artifacts that were put before, and that nothing kept refers to, with their sizes; as if the
    runs `without` were deleted."""
    sizes: dict[str, int] = {}
    hidden: set[object] = set()

    def note(row: Stored) -> None:
        name, size, put_at = row
        if put_at < put_before:
            sizes[name] = size

    def look(row: Stored) -> None:
        if row[first] not in hidden:
            marks.look(*row[2:])

    def keep(row: Stored) -> None:
        name, _, put_at = row
        if put_at >= put_before:
            marks.keep(name)

    await _scan(read, statements.ARTIFACTS_FROM, ("",), note)
    marks = Marks(sizes)
    runs = list(without)
    for start in range(0, len(runs), _ASKED_MAX):
        hidden |= await read(partial(_ids, runs[start : start + _ASKED_MAX]))
    first = 1
    await _scan(read, statements.EVENTS_FROM, (0,), look)
    first = 0
    await _scan(read, statements.MESSAGES_FROM, (0, ""), look)
    await _scan(read, statements.ARTIFACTS_FROM, ("",), keep)
    while marks.old and marks.todo:
        asked, marks.todo = marks.todo[:_ARTIFACTS], marks.todo[_ARTIFACTS:]
        await read(partial(_look_into, asked, marks))
    return {name: sizes[name] for name in sorted(marks.old)}


async def _scan(
    read: Reader, text: str, start: tuple[Any, ...], look: Callable[[Stored], None]
) -> None:
    """Look at all rows of a statement, in portions."""
    at: tuple[Any, ...] | None = start
    while at is not None:
        at = await read(partial(_page, text, at, look))


def _page(
    text: str, start: tuple[Any, ...], look: Callable[[Stored], None], ask: Ask
) -> tuple[Any, ...] | None:
    """Look at the rows behind a place; the place of the last one, or None at the end."""
    rows = list(ask(text, (*start, _ROWS)))
    for row in rows:
        look(row)
    return tuple(rows[-1][: len(start)]) if len(rows) == _ROWS else None


def _ids(run_ids: Sequence[str], ask: Ask) -> set[object]:
    return {row for (row,) in ask(statements.ids(len(run_ids)), run_ids)}


def _look_into(artifacts: Sequence[str], marks: Marks, ask: Ask) -> None:
    for sha256 in artifacts:
        for (data,) in ask(statements.ARTIFACT, (sha256,)):
            marks.look(bytes(data))


def portions(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """What can be done in one transaction without holding others up: together at most so large."""
    portion: list[str] = []
    size = 0
    for name, own in sizes.items():
        if portion and size + own > most:
            yield portion
            portion, size = [], 0
        portion.append(name)
        size += own
    if portion:
        yield portion
