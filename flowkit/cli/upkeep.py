"""`flowkit gc` and `flowkit vacuum`: delete ended runs, what only they refer to, and the free space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flowkit.cli.exits import Problem, command

if TYPE_CHECKING:
    from flowkit.cli.config import Database
    from flowkit.store import SqlStore
    from flowkit.store.upkeep import Collected

DbOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="PATH|URL",
        help="The database, a file or postgresql://...; else $FLOWKIT_DB, flowkit.toml, data dir.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, with stable keys.")]

_DAY_S = 86_400.0
_LISTED_MAX = 20


@command
def gc(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Runs that ended 12h, 30d, 8w ago, or before a date."),
    ] = None,
    status: Annotated[
        str, typer.Option("--status", help="Which of them, joined by commas; also quarantined.")
    ] = "",
    runs: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="This run; repeats.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    then_vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Give the space back to the disk as well.")
    ] = False,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Delete ended runs for good: by age, or by name; then artifacts that nothing refers to.

    Without --status: succeeded, failed and cancelled runs. Runs that have not ended are never deleted.
    """
    from flowkit.cli.config import find_database
    from flowkit.cli.looking import on_store

    if older_than and runs:
        raise Problem("--older-than or --run, one of the two; nothing was deleted.")
    if not (older_than or runs):
        raise Problem("say which runs: --older-than 30d, or --run RUN; nothing was deleted.")
    if runs and status:
        raise Problem("--status goes with --older-than; --run names the runs itself.")
    if dry_run and then_vacuum:
        raise Problem("--dry-run changes nothing: leave out --vacuum.")
    chosen = _statuses(status)
    days = _days(older_than) if older_than else 0.0
    database = find_database(db)

    async def work(store: SqlStore) -> tuple[Collected, tuple[int, int] | None]:
        import time

        from flowkit.store.upkeep import Retention, collect
        from flowkit.store.upkeep import gc as gc_by_age

        if runs:
            named = await _named(store, runs, database)
            found = await collect(store, named, dry_run=dry_run)
        else:
            rules = Retention(**{f"{each}_days": days for each in chosen})
            found = await gc_by_age(store, rules, time.time(), dry_run=dry_run)
        return found, await store.vacuum() if then_vacuum else None

    found, space = on_store(database, work)
    _tell(found, space, dry_run=dry_run, json=json)


@command
def vacuum(db: DbOption = None, json: JsonOption = False) -> None:
    """Give the database's free space back to the disk; other writers wait meanwhile."""
    from flowkit.cli.config import find_database
    from flowkit.cli.looking import on_store
    from flowkit.cli.text import to_json

    before, after = on_store(find_database(db), lambda store: store.vacuum())
    print(to_json({"before": before, "after": after}) if json else _space(before, after))


def _statuses(text: str) -> Sequence[str]:
    from flowkit.events import FINAL

    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if any(each not in FINAL for each in wanted):
        known = ", ".join(sorted(FINAL))
        raise Problem(f"--status takes some of {known}, joined by commas; not {text!r}.")
    return wanted or ("succeeded", "failed", "cancelled")


def _days(text: str) -> float:
    import time

    from flowkit.cli.text import parse_since

    now = time.time()
    try:
        age = now - parse_since(text, now)
    except (ValueError, OverflowError) as error:
        raise Problem(f"--older-than {text!r}: write 12h, 30d, 8w, or a date.") from error
    if age > now:
        raise Problem(f"--older-than {text!r} lies before 1970; nothing was deleted.")
    if age < 0:
        raise Problem(f"--older-than {text!r} lies in the future; nothing was deleted.")
    return age / _DAY_S


async def _named(store: SqlStore, refs: Sequence[str], database: Database) -> Sequence[str]:
    """The ids of the runs that are named; refuses, before anything is deleted, what may not go."""
    from flowkit.cli.deciding import refuse_driven
    from flowkit.cli.looking import find_run
    from flowkit.events import FINAL

    named: list[str] = []
    for ref in refs:
        record = await find_run(store, ref)
        refuse_driven(record, database)
        if record.status not in FINAL:
            raise Problem(
                f"run {record.run_id} is {record.status}: only ended runs are deleted. End it with "
                f"flowkit cancel {record.run_id}; nothing was deleted."
            )
        named.append(record.run_id)
    for run_id, base in await store.forks():
        if base in named and run_id not in named:
            raise Problem(
                f"run {base} stays: run {run_id} was forked from it. Name both, or delete {run_id} first; "
                f"nothing was deleted."
            )
    return named


def _tell(found: Collected, space: tuple[int, int] | None, *, dry_run: bool, json: bool) -> None:
    from flowkit.cli.text import clean, counted, to_json

    if json:
        data = {
            "dry_run": dry_run, "runs": list(found.runs), "kept": list(found.kept),
            "artifacts": found.artifacts, "bytes": found.bytes,
        }  # fmt: skip
        vacuumed = {"before": space[0], "after": space[1]} if space else None
        print(to_json({**data, "vacuum": vacuumed}))
        return
    for run_id in found.runs[:_LISTED_MAX]:
        print(f"  {clean(run_id)}")
    if len(found.runs) > _LISTED_MAX:
        print(f"  … and {len(found.runs) - _LISTED_MAX:,} more (--json lists all)")
    did = "would delete" if dry_run else "deleted"
    swept = f"{counted(found.artifacts, 'artifact')} of {counted(found.bytes, 'byte')}"
    print(f"{did} {counted(len(found.runs), 'run')} and {swept}.")
    if found.kept:
        print(f"kept, since others were forked from them: {clean(', '.join(found.kept))}")
    if space:
        print(_space(*space))


def _space(before: int, after: int) -> str:
    return f"the database had {before:,} bytes and has {after:,}."
