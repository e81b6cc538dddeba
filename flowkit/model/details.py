"""`reasoning_details`, OpenRouter's list of what a model thought, put together from its pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

_GOES_ON: Final = frozenset({"text", "summary", "data"})
"""The texts that come in pieces; of the other fields the latest counts."""


class Details:
    """The list so far. A piece with the index and the type of another goes on with it.

    It must go back unchanged and in order, or signatures in it no longer fit.
    """

    def __init__(self) -> None:
        self._all: list[object] = []
        self._texts: list[dict[str, list[str]]] = []
        self._places: dict[tuple[int, object], int] = {}

    def add(self, pieces: Sequence[object]) -> int:
        """Take the list of a delta, or of a whole message; how many characters it has.

        Items of one list are never parts of each other.
        """
        here: set[object] = set()
        return sum(self._add(piece, here) for piece in pieces)

    def _add(self, piece: object, here: set[object]) -> int:
        if not isinstance(piece, Mapping):
            self._append(piece, {})
            return 1
        given = cast("Mapping[str, Any]", piece)
        texts = {k: v for k, v in given.items() if k in _GOES_ON and isinstance(v, str)}
        index = given.get("index")
        key = (index, str(given.get("type"))) if isinstance(index, int) else None
        place = self._places.get(key) if key and key not in here else None
        if place is None:
            if key:
                self._places[key] = len(self._all)
            self._append(dict(given), {name: [text] for name, text in texts.items()})
        else:
            known = cast("dict[str, Any]", self._all[place])
            known.update({k: v for k, v in given.items() if v is not None or k not in known})
            for name, text in texts.items():
                self._texts[place].setdefault(name, []).append(text)
        here.add(key)
        return sum(map(len, texts.values())) + len(given)

    def made(self) -> list[Any] | None:
        """The list; None if there was none."""
        for place, texts in enumerate(self._texts):
            for name, pieces in texts.items():
                cast("dict[str, Any]", self._all[place])[name] = "".join(pieces)
        return self._all or None

    def _append(self, item: object, texts: dict[str, list[str]]) -> None:
        self._all.append(item)
        self._texts.append(texts)
