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
from flowkit.shield import wait_shielded


class Commits(ABC):
    """One run's way to its journal."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.broken: Exception | None = None
        """Why the run can only be dropped."""
        self.pending = [*facts]
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
    def obey(self, commands: Commands) -> None:
        """Do what follows from facts that are on disk."""

    @abstractmethod
    def drop(self) -> None:
        """An append went wrong: the run is `broken`."""

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
                await self._call().wait()
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
            if not isinstance(appended, Commands):
                dropped = LeaseLost("the run was dropped") if appended is None else appended
                self.broken = dropped
                self.drop()
        if isinstance(appended, Commands):
            self.obey(appended)

    async def wait_turn(self) -> None:
        """While another leads: until there is something new. Cancelled, wait all the same."""
        await wait_shielded(self._call())

    def _call(self) -> anyio.Event:
        self._turn = self._turn or anyio.Event()
        return self._turn

    def call_all(self) -> None:
        """Tell those who wait for their turn to look again."""
        if self._turn is not None:
            self._turn.set()
            self._turn = None
