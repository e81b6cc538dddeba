"""Paths that are no place for a database, opened by an ordinary user. For `test_disk_places`.

Root may do everything, so the children are nobody where this runs as root. One JSON line for each place:
what opening it said, and how long that took.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

import anyio

from flowkit.errors import FlowkitError
from flowkit.store import SqlStore
from tests.fault.disk.errors import in_child

NOBODY: Final = 65_534


def _database(folder: Path) -> Path:
    async def make() -> None:
        await SqlStore(folder / "runs.db").open()

    anyio.run(make)
    return folder / "runs.db"


def read_only(folder: Path) -> Path:
    path = _database(folder)
    path.chmod(0o444)
    return path


def read_only_folder(folder: Path) -> Path:
    path = _database(folder)
    folder.chmod(0o555)
    return path


def closed_folder(folder: Path) -> Path:
    path = _database(folder)
    folder.chmod(0o000)
    return path


def new_in_a_read_only_folder(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder / "runs.db"


def nobodys_log(folder: Path) -> Path:
    path = _database(folder)
    (folder / "runs.db-wal").write_bytes(b"")
    (folder / "runs.db-wal").chmod(0o000)
    return path


def no_folder(folder: Path) -> Path:
    return folder / "missing" / "runs.db"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "runs.db"


def is_a_folder(folder: Path) -> Path:
    return folder


def dangling(folder: Path) -> Path:
    (folder / "runs.db").symlink_to(folder / "nowhere" / "runs.db")
    return folder / "runs.db"


def in_a_circle(folder: Path) -> Path:
    (folder / "runs.db").symlink_to(folder / "runs.db")
    return folder / "runs.db"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "runs.db")
    return folder / "runs.db"


def a_device(folder: Path) -> Path:
    return Path("/dev/null")


def too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


PLACES: Final[tuple[Callable[[Path], Path], ...]] = (
    read_only, read_only_folder, closed_folder, new_in_a_read_only_folder, nobodys_log, no_folder,
    below_a_file, is_a_folder, dangling, in_a_circle, a_pipe, a_device, too_long,
)  # fmt: skip


async def open_once(path: Path) -> dict[str, object]:
    begun = time.monotonic()
    try:
        async with SqlStore(path):
            told = "opened"
    except FlowkitError as error:
        told = f"{type(error).__name__}: {error}"
    return {"path": str(path), "said": told, "seconds": time.monotonic() - begun}


def as_nobody(make: Callable[[Path], Path]) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="flowkit-disk-") as name:
        folder = Path(name) / "folder"
        Path(name).chmod(0o755)
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)

        def work() -> dict[str, object]:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            return anyio.run(open_once, make(folder))

        told = in_child(work)
        if folder.exists():
            folder.chmod(0o755)
        return told


def main() -> None:
    import_module("sqlalchemy.dialects.sqlite")
    with tempfile.TemporaryDirectory() as name:
        _database(Path(name))  # loads the rest, which nobody may not be able to read
    for make in PLACES:
        print(json.dumps({"place": make.__name__, **as_nobody(make)}), flush=True)


if __name__ == "__main__":
    main()
