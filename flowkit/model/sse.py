"""Server-sent events, as far as chat completions use them.

The SDK reads them too, but leaves its generators open at `[DONE]`, which trio reports, and wraps
what it reads in objects that know less fields than servers send.
"""

from __future__ import annotations

from collections.abc import Iterator


class EventReader:
    """Makes events of bytes as they come. Names, ids and comments are passed over."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that ends in this piece."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            line = b"".join((*self._line, end)).removesuffix(b"\r")
            self._line.clear()
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                yield from self._event()
        if rest:
            self._line.append(rest)

    def end(self) -> Iterator[bytes]:
        """The last event, of a server that does not send the empty line after it."""
        yield from self.feed(b"\n\n")

    def _event(self) -> Iterator[bytes]:
        if self._data:
            data = b"\n".join(self._data)
            self._data.clear()
            yield data
