"""`Corpus`: documents that can be searched and read, and the two tools that do it.

    engine = Engine(store, resources=[Corpus.from_folder("handbook")])
    Planner(..., tools=[corpus_search, read_page])

Full text by SQLite's FTS5, in memory, ranked by bm25. Scripts that are written without spaces are
indexed by pairs of characters. A query is a bag of words: FTS5's own syntax never reaches it.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flowkit.node import Context
from flowkit.nodes.fulltext import indexed, terms_of
from flowkit.nodes.tool import tool
from flowkit.nodes.tools.documents import Document, read_folder

PIECE_CHARACTERS: Final = 6_000
"""What one reading gives at most: about 1,500 tokens."""

SNIPPET_CHARACTERS: Final = 240
TITLE_WEIGHT: Final = 4.0


class Unavailable(LookupError):
    """The document is listed, but cannot be read."""


class UnknownDocument(LookupError):
    """No document has this id."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchQuery(_Value):
    """What to look for in the documents."""

    query: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="Words that the wanted text contains: names, things, numbers. No operators."
    )
    limit: Annotated[int, Field(ge=1, le=20)] = Field(
        default=6, description="How many hits to give, best first"
    )


class Hit(_Value):
    """A document that was found; `score` is bm25's, higher is better."""

    id: str
    title: str
    snippet: str
    score: float


class Hits(_Value):
    """What a search found, best first. `documents` is how many were looked through."""

    query: str
    hits: list[Hit]
    documents: int
    note: str = ""


class PageQuery(_Value):
    """Which document to read, and from where."""

    id: Annotated[str, Field(min_length=1, max_length=300)] = Field(
        description="The document's id, exactly as a search gave it"
    )
    from_line: Annotated[int, Field(ge=1)] = Field(
        default=1, description="First line to read; next_line of the piece before, to read on"
    )


class Page(_Value):
    """A piece of a document: each line as "number| text". `next_line` is None at its end.

    `note`: what a reader should know of how it was read.
    """

    id: str
    title: str
    text: str
    from_line: int
    to_line: int
    lines: int
    next_line: int | None = None
    note: str = ""


class Corpus:
    """Documents with a full-text index in memory. May be used from several threads.

    Raises:
        ValueError: two have one id, or something else than documents was given.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        given = cast("Sequence[object]", documents)
        if isinstance(given, str) or any(not isinstance(each, Document) for each in given):
            raise ValueError(
                "Corpus(...) takes documents; the files of a folder: Corpus.from_folder(folder)."
            )
        self._documents: dict[str, Document] = {each.id: each for each in documents}
        if len(self._documents) < len(documents):
            ids = [each.id for each in documents]
            twice = next(each for each in ids if ids.count(each) > 1)
            raise ValueError(f"two documents have the id {twice!r}.")
        self._lock = threading.Lock()
        self._index = _index(documents)
        weakref.finalize(self, self._index.close)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Corpus:
        """The .txt, .md and .html files below a folder; their relative paths are the ids.

        Links are not followed. A file that cannot be read is listed, and reading it says why.

        Raises:
            ValueError: no such folder, no such file in it, or too much of it.
        """
        return cls(read_folder(Path(folder)))

    @classmethod
    def from_json(cls, data: bytes) -> Corpus:
        """What `to_json` gave; raises `ValueError` for anything else."""
        return cls(_documents().validate_json(data))

    def to_json(self) -> bytes:
        """All documents, the same bytes for the same documents."""
        plain = _documents().dump_python(list(self._documents.values()), exclude_defaults=True)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents.values())

    def document(self, id: str) -> Document:
        """A document that can be read; raises `UnknownDocument` or `Unavailable`."""
        found = self._documents.get(id)
        if found is None:
            near = get_close_matches(id, self._documents, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else "search, and take an id from a hit."
            )
            raise UnknownDocument(f"no document has the id {id!r}; {hint}")
        if found.unavailable:
            raise Unavailable(
                f"{id} ({found.title}) cannot be read: {found.unavailable} Search for another source."
            )
        return found

    def search(self, query: str, limit: int = 6) -> Hits:
        """The documents that fit a bag of words best. Raises `ValueError` if there is no word in it."""
        terms = terms_of(query)
        if not terms:
            raise ValueError(
                f"there is no word in the query {query[:80]!r}: give words to look for."
            )
        with self._lock:
            rows = self._index.execute(
                "SELECT documents.id, bm25(pages, ?, 1.0) AS rank FROM pages "
                "JOIN documents ON documents.number = pages.rowid "
                "WHERE pages MATCH ? ORDER BY rank, documents.number LIMIT ?",
                (TITLE_WEIGHT, " OR ".join(terms), limit),
            ).fetchall()
        words = [term.strip('"*') for term in terms]
        hits = [
            Hit(
                id=key,
                title=self._documents[key].title,
                snippet=_snippet(self._documents[key].text, words),
                score=round(-float(rank), 3),
            )
            for key, rank in rows
        ]
        note = "" if hits else "Nothing found. Try fewer or other words, names, or synonyms."
        return Hits(query=query, hits=hits, documents=len(self), note=note)

    def read(self, id: str, from_line: int = 1) -> Page:
        """A piece of a document from a line on. Raises `UnknownDocument`, `Unavailable`, `ValueError`."""
        return piece_of(self.document(id), from_line)


def piece_of(document: Document, from_line: int = 1) -> Page:
    """About `PIECE_CHARACTERS` of a document from a line on; `ValueError` if there is no such line."""
    lines = document.lines()
    if not 1 <= from_line <= max(len(lines), 1):
        raise ValueError(f"{document.id} has {len(lines)} lines, there is no line {from_line}.")
    shown: list[str] = []
    room = PIECE_CHARACTERS
    for number, line in enumerate(lines[from_line - 1 :], from_line):
        numbered = f"{number}| {line}"
        if shown and len(numbered) > room:
            break
        shown.append(numbered)
        room -= len(numbered) + 1
    last = from_line + len(shown) - 1
    return Page(
        id=document.id,
        title=document.title,
        text="\n".join(shown),
        from_line=from_line,
        to_line=last,
        lines=len(lines),
        next_line=last + 1 if last < len(lines) else None,
    )


@tool(timeout_s=30, reads_private=True)
def corpus_search(ctx: Context, search: SearchQuery) -> Hits:
    """Search the documents. Gives ids, titles and snippets, best first; read a document before you
    rely on it."""
    return ctx.resource(Corpus).search(search.query, search.limit)


@tool(timeout_s=30, reads_private=True)
def read_page(ctx: Context, page: PageQuery) -> Page:
    """Read a document, or the next piece of it. Lines come with numbers, which are no part of the
    text."""
    return ctx.resource(Corpus).read(page.id, page.from_line)


def _documents() -> TypeAdapter[list[Document]]:
    return TypeAdapter(list[Document])


# ---- the index


def _index(documents: Sequence[Document]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    try:
        connection.execute("CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL)")
        connection.execute(
            "CREATE VIRTUAL TABLE pages USING fts5(title, body, content='', "
            "tokenize='porter unicode61 remove_diacritics 2')"
        )
        connection.execute("BEGIN")
        for number, each in enumerate(documents, 1):
            connection.execute("INSERT INTO documents VALUES (?, ?)", (number, each.id))
            connection.execute(
                "INSERT INTO pages (rowid, title, body) VALUES (?, ?, ?)",
                (number, indexed(each.title), indexed(each.text)),
            )
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        connection.close()
        raise RuntimeError(
            f"SQLite {sqlite3.sqlite_version} cannot index documents ({error}); a corpus needs its FTS5."
        ) from error
    return connection


def _snippet(text: str, words: Sequence[str]) -> str:
    """The piece of a text with most of the words, the rare ones counting more."""
    plain = " ".join(text.split())
    low = plain.lower()
    places: list[tuple[int, float]] = []
    for word in words:
        stem = word if len(word) < 5 else word[: max(4, len(word) - 2)]
        found = [each.start() for each in re.finditer(re.escape(stem.lower()), low)][:200]
        places += [(place, len(stem) / math.sqrt(len(found))) for place in found]
    if not places or len(low) != len(plain):
        return _cut(plain, 0)
    places.sort()
    best, best_weight, weight, first = 0, 0.0, 0.0, 0
    for place, gain in places:
        weight += gain
        while place - places[first][0] > SNIPPET_CHARACTERS - 60:
            weight -= places[first][1]
            first += 1
        if weight > best_weight:
            best, best_weight = places[first][0], weight
    return _cut(plain, max(0, best - 30))


def _cut(plain: str, start: int) -> str:
    """About `SNIPPET_CHARACTERS` from a place on, at spaces where there are some near."""
    end = start + SNIPPET_CHARACTERS
    if start and (space := plain.find(" ", start, start + 30)) >= 0:
        start = space + 1
    if end < len(plain) and (space := plain.rfind(" ", end - 30, end)) >= 0:
        end = space
    return f"{'… ' if start else ''}{plain[start:end].strip()}{' …' if end < len(plain) else ''}"
