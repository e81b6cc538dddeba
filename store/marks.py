"""What refers to which artifacts, on the safe side: whatever looks like a digest counts, wherever it
stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

GRACE_S = 3600.0
"""What was put since is kept: the event that refers to it may be on its way."""

_TEXT = re.compile(r"[0-9a-f]{64,}")
_BYTES = re.compile(rb"[0-9a-f]{64,}")
_DIGEST = 64

_STEP = 1 << 20  # Python's `re` lets no other thread run meanwhile: 1 MB takes some milliseconds


class Marks:
    """`old`: artifacts that nothing seen so far refers to. `todo`: those that are kept, unread."""

    def __init__(self, old: Iterable[str]) -> None:
        self.old = set(old)
        self.todo: list[str] = []

    def keep(self, sha256: str) -> None:
        self.old.discard(sha256)
        self.todo.append(sha256)

    def look(self, *texts: str | bytes | None) -> None:
        """Keep what these texts refer to."""
        for text in texts:
            if text is not None and self.old:
                for found in self.old.intersection(digests(text)):
                    self.keep(found)


def digests(text: str | bytes) -> Iterator[str]:
    """Everything in a text that could be the digest of an artifact."""
    for start in range(0, len(text), _STEP):
        end = start + _STEP + _DIGEST - 1
        if isinstance(text, str):
            found = (match[0] for match in _TEXT.finditer(text, start, end))
        else:
            found = (match[0].decode() for match in _BYTES.finditer(text, start, end))
        for digits in found:
            yield from (digits[at : at + _DIGEST] for at in range(len(digits) - _DIGEST + 1))


def swept_before(now: float, held_since: float | None) -> float:
    """Artifacts that were put since are kept. `held_since`: when the oldest run that somebody drives
    was created; a step of it may have put something hours ago, and not be done yet."""
    return min(now - GRACE_S, now if held_since is None else held_since)
