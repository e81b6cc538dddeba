"""The body of an answer as events: server-sent ones, or one JSON text of a server that has none.

The SDK reads server-sent events too, but leaves its generators open at `[DONE]`, and trio reports
such generators as mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator


class EventReader:
    """Makes events of bytes as they come. Names, ids and comments are passed over."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self.waiting = 0
        """Bytes of what is not yet an event."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that ends in this piece."""
        self.waiting += len(piece)
        *ends, rest = piece.split(b"\n")
        for end in ends:
            line = b"".join((*self._line, end)).removesuffix(b"\r")
            self._line.clear()
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                yield from self._event(len(rest))
        if rest:
            self._line.append(rest)

    def end(self) -> Iterator[bytes]:
        """The last event, of a server that does not send the empty line after it."""
        yield from self.feed(b"\n\n")

    def _event(self, waiting: int) -> Iterator[bytes]:
        self.waiting = waiting
        if self._data:
            data = b"\n".join(self._data)
            self._data.clear()
            yield data


class WholeReader:
    """Makes one event of all bytes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.waiting = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        self._pieces.append(piece)
        self.waiting += len(piece)
        yield from ()

    def end(self) -> Iterator[bytes]:
        yield b"".join(self._pieces)
