"""What a database file holds, read past flowkit, and what must be the same in two of them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Final

ENDS: Final = ("step_done", "planned", "accepted", "rejected", "attempt_failed")
"""What ends an attempt."""

UNLIKE: Final = frozenset({"duration_s", "retry_at", "answer", "where"})
"""Times, and places in the journal, which counts the claims too."""

Row = tuple[Any, ...]
"""seq, kind, key, alternative, attempt, data, value; data and value are JSON texts."""


def rows(folder: Path, run_id: str = "r") -> list[Row]:
    """The run's events; the file must be sound, and no event missing."""
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        found = connection.execute(
            "SELECT seq, kind, key, alternative, attempt, data, value FROM flowkit_events e "
            "JOIN flowkit_runs r ON r.id = e.run WHERE run_id = ? ORDER BY seq",
            [run_id],
        ).fetchall()
    assert [row[0] for row in found] == list(range(1, len(found) + 1))
    return found


def ended(events: list[Row]) -> set[str]:
    """Attempts whose outcome is there, as the ledgers write them."""
    return {f"{row[2]} {row[3]} {row[4]}" for row in events if row[1] in ENDS}


def comparable(events: list[Row]) -> list[Row]:
    """The events without claims, times and order: steps side by side end as they like."""
    kept = [row for row in events if row[1] != "claimed"]
    return sorted((*row[1:5], _without_times(row[5]), row[6] or "") for row in kept)


def _without_times(data: str) -> str:
    def alike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if name not in UNLIKE}

    return json.dumps(json.loads(data, object_pairs_hook=alike))


def counted(folder: Path) -> Counter[str]:
    """How often each line stands in the ledger."""
    path = folder / "ledger"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def copied(folder: Path, into: Path) -> Path:
    """A folder as its dead process left it; SQLite makes its -shm anew."""
    into.mkdir()
    for path in folder.iterdir():
        if path.is_file() and not path.name.endswith("-shm"):
            shutil.copyfile(path, into / path.name)
    return into
