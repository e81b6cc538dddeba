"""A run as one file, written and read: `export` and `import`."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import anyio

from flowkit.cli.config import Database, has_runs, prepare
from flowkit.cli.driving import resume_command
from flowkit.cli.exits import FAILED, NOT_FOUND, SUCCESS, USAGE, Problem, say
from flowkit.cli.looking import find_run, on_store
from flowkit.cli.text import clean, counted, to_json
from flowkit.events import FINAL
from flowkit.graph import check_name
from flowkit.history.file import BadRunFile, RunFile, Written, check_run, put_run, write_run
from flowkit.ports import RunRecord
from flowkit.store import SqlStore

_LISTED_MAX = 5


def export_file(database: Database, ref: str, out: Path, *, force: bool, json: bool) -> int:
    """Write a run to a file, whole or not at all."""
    written = write_whole(database, ref, out, force=force)
    if json:
        data = {
            "run_id": written.record.run_id,
            "file": str(out),
            "bytes": out.stat().st_size,
            "events": written.record.head,
            "artifacts": written.artifacts,
            "missing": list(written.missing),
        }
        print(to_json(data))
    tell(written, clean(out))
    return SUCCESS


def export_stdout(database: Database, ref: str) -> int:
    """Write a run to stdout."""
    written = on_store(database, lambda store: _write(store, ref, sys.stdout.buffer.write))
    sys.stdout.buffer.flush()
    tell(written, "stdout")
    return SUCCESS


def write_whole(
    database: Database,
    ref: str,
    out: Path,
    *,
    force: bool,
    notes: Iterable[Mapping[str, Any]] = (),
) -> Written:
    """Write a run and notes to a file under a temporary name, and give it its name when it is whole."""
    with new_file(out, force=force) as file:
        return on_store(database, lambda store: _write(store, ref, file.write, notes))


async def _write(
    store: SqlStore,
    ref: str,
    write: Callable[[bytes], object],
    notes: Iterable[Mapping[str, Any]] = (),
) -> Written:
    record = await find_run(store, ref)
    return await write_run(store, store, record.run_id, write, notes=notes)


def tell(written: Written, where: object) -> None:
    """Say what was written, and what whoever reads it should know."""
    record = written.record
    what = f"{counted(record.head, 'event')}, {counted(written.artifacts, 'artifact')}"
    say(f"run {record.run_id} of {record.workflow} ({record.status}): {what}, to {where}.")
    if record.status not in FINAL:
        say(
            "the run has not ended. Who imports it and resumes it there does again what goes on here: "
            "let only one of the two go on."
        )
    if written.missing:
        listed = ", ".join(each[:12] for each in written.missing[:_LISTED_MAX])
        number = counted(len(written.missing), "artifact")
        say(f"{number} that the run names are not in this database and left out: {listed}.")


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Generator[BinaryIO]:
    """A file that appears under its name when it is whole. What is there is replaced only with --force.

    Readable by its owner alone, since prompts are secrets.
    """
    refuse_present(path, force=force)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".flowkit-")
    except OSError as error:
        raise Problem(f"{clean(path)}: cannot write there: {error.strerror}.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        raise Problem(f"{clean(path)}: cannot write it: {error.strerror}.", FAILED) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def refuse_present(path: Path, *, force: bool) -> None:
    """`Problem` where a file would be replaced that nobody said to replace, or cannot be one."""
    try:
        there, folder = path.exists() or path.is_symlink(), path.is_dir()
    except (OSError, ValueError) as error:
        raise Problem(f"{clean(path, 200)}: is no name of a file: {error}.") from error
    if folder:
        raise Problem(f"{clean(path)} is a directory: give a file.")
    if there and not force:
        raise Problem(f"{clean(path)} is there already: take another name, or replace it: --force.")


# ---- import


def import_file(database: Database, path: Path, run_id: str | None, *, json: bool) -> int:
    """Put the run of a file into the database."""
    if run_id is not None:
        check_name(run_id, "--as")
    record = _import(database, path, run_id)
    if json:
        data = {
            "run_id": record.run_id,
            "workflow": record.workflow,
            "status": record.status,
            "events": record.head,
        }
        print(to_json(data))
    else:
        print(record.run_id)
    say(f"run {record.run_id} of {record.workflow} ({record.status}): {record.head} events.")
    option = f" --db {shlex.quote(database.option)}" if database.option else ""
    say(f"look at it: flowkit show {record.run_id}{option}")
    if record.status not in FINAL:
        say(f"go on with it, if nobody else does: {resume_command(record, database)}")
    return SUCCESS


def _import(database: Database, path: Path, run_id: str | None) -> RunRecord:
    try:
        source = path.open("rb")
    except FileNotFoundError as error:
        raise Problem(f"there is no file {clean(path)}.", NOT_FOUND) from error
    except OSError as error:
        raise Problem(f"{clean(path)}: cannot be read: {error.strerror}.") from error
    except ValueError as error:  # a NUL in the path
        raise Problem(f"{clean(path)}: cannot be read: {error}.") from error
    with source:
        has_runs(database)  # refused here, where a bad one is one line
        if not source.seekable():
            raise Problem(
                f"{clean(path)}: is read twice, so it must be a file. Save it, then import it."
            )

        try:
            whole = check_run(source)  # before a database is made for it
            whole.name(run_id)
            prepare(database)
            return anyio.run(_put, database, whole, source, run_id)
        except BadRunFile as error:
            raise Problem(f"{clean(path)}: {error}", USAGE) from error
        except OSError as error:
            raise Problem(f"{clean(path)}: cannot be read: {error.strerror}.") from error


async def _put(
    database: Database, whole: RunFile, source: BinaryIO, run_id: str | None
) -> RunRecord:
    async with SqlStore(database.target) as store:
        return await put_run(whole, source, store, store, run_id=run_id)
