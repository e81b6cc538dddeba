"""Fresh directories on a real disk: on a tmpfs a flush costs nothing, and a durable store shines."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def fresh() -> Generator[Path]:
    """An empty directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flowkit-bench-", dir=place()) as found:
        yield Path(found)


def place() -> Path:
    """Where to write: /var/tmp, or beside the checkout where that is kept in memory."""
    found = Path("/var/tmp")
    if found.is_dir() and file_system(found) not in _IN_MEMORY:
        return found
    return _ROOT


def file_system(path: Path) -> str:
    """The type of the file system that a path is on; empty where it cannot be told."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    best, kind = "", ""
    for line in mounts.read_text("utf-8", "replace").splitlines():
        _, mount, found, *_ = line.split()
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def size_of(folder: Path) -> int:
    """Bytes of all files in a directory: the database, and its log if one is left."""
    return sum(file.stat().st_size for file in folder.iterdir())
