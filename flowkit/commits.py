"""Facts of many tasks, one append at a time: who has facts adds them to what waits, and one leads.

What comes while an append is in flight goes into the next one, together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import anyio

from flowkit.errors import LeaseLost
from flowkit.events import Fact
from flowkit.runner import guarded
from flowkit.schedule import Commands


class Commits(ABC):
    """One run's way to its journal."""

    def __init__(self) -> None:
        self.broken: Exception | None = None
        """Why the run can only be dropped."""
        self.pending: list[Fact] = []
        self.news = False
        """Something waits to be folded: facts, or an attempt that was stopped and left none."""
        self.leading = False
        self._begun = 0
        self._done = 0
        self._turn: anyio.Event | None = None

    @abstractmethod
    async def append(self, facts: Sequence[Fact]) -> Commands:
        """Fold facts and store them; what follows from them."""

    @abstractmethod
    def obey(self, commands: Commands | Exception) -> None:
        """Do what follows, now that the facts are on disk; or leave it, when the append went wrong."""

    def add(self, facts: Sequence[Fact]) -> None:
        """To go into the next append; somebody must lead it."""
        self.pending += facts
        self.news = True

    async def committed(self, facts: Sequence[Fact]) -> bool:
        """Return when the facts are on disk and folded; False if the run is broken."""
        self.add(facts)
        mine = self._begun + 1
        while self._done < mine and self.broken is None:
            if self.leading:
                await self.next_call().wait()
            else:
                with anyio.CancelScope(shield=True):  # an attempt leads for the others, too
                    await self.lead()
        return self.broken is None

    async def lead(self) -> None:
        """Fold and append what waits, as one transaction; then do what follows."""
        self.leading, self.news = True, False
        self._begun += 1
        facts, self.pending = self.pending, []
        appended: Commands | Exception | None = None
        try:
            appended = await guarded(self.append(facts))
        finally:
            self._done = self._begun
            self.leading = False
            self.call_all()
            if appended is None:  # cancelled
                appended = LeaseLost("the run was dropped")
            if isinstance(appended, Exception):
                self.broken = appended
            self.obey(appended)

    def next_call(self) -> anyio.Event:
        """Set when there is something new for who waits while another leads."""
        self._turn = self._turn or anyio.Event()
        return self._turn

    def call_all(self) -> None:
        """Tell those who wait for their turn to look again."""
        if self._turn is not None:
            self._turn.set()
            self._turn = None
