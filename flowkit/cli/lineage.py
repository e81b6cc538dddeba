"""What a fork is one of, as `show` and `--json` tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flowkit.events as ev
from flowkit.changes import done_in
from flowkit.cli.text import clean
from flowkit.events import Event
from flowkit.ports import RunRecord
from flowkit.rewind import Fold, rewind

LISTED_MAX = 8


def listed(keys: Sequence[str]) -> str:
    """The first keys, and how many more there are."""
    more = f" and {len(keys) - LISTED_MAX} more" if len(keys) > LISTED_MAX else ""
    return ", ".join(clean(key) for key in keys[:LISTED_MAX]) + more


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a run was forked from: the run, its last event that is shared, and how it was forked."""

    run_id: str
    seq: int
    again: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    model: str = ""
    half_made: bool = False

    def data(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "seq": self.seq,
            "again": list(self.again),
            "set": list(self.values),
            "model": self.model or None,
        }


def lineage(record: RunRecord, events: Sequence[Event]) -> Lineage | None:
    """What a run was forked from last; None for one that was not forked."""
    if record.half_made and record.base is not None:
        return Lineage(record.base, record.base_seq, half_made=True)
    forks = [
        (index, event.payload)
        for index, event in enumerate(events)
        if isinstance(event.payload, ev.Rewound) and event.payload.run
    ]
    if not forks:
        return None
    index, rewound = forks[-1]
    folded = Fold().apply_all(events[:index])
    dropped = rewind(folded, events[index], rewound).dropped
    values: list[str] = []
    for event in events[index + 1 :]:
        if not (isinstance(event.payload, ev.Decided) and event.payload.how == "set"):
            break
        values.append(event.key)
    again = tuple(key for key in done_in(dropped) if key not in values)
    return Lineage(rewound.run, index, again, tuple(values), rewound.model)


def lineage_lines(found: Lineage) -> list[tuple[str, str]]:
    """For `show`: names and texts."""
    lines = [("fork of", f"{found.run_id}, as it was at event {found.seq}")]
    if found.half_made:
        text = f"no, since its process died: fork {found.run_id} again with this --run-id"
        return [*lines, ("begun", text)]
    if found.again:
        lines.append(("done again", listed(found.again)))
    if found.values:
        lines.append(("set", listed(found.values)))
    if found.model:
        lines.append(("model", found.model))
    return lines
