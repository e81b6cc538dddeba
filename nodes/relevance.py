"""How well a task fits each tool's description: by words (BM25), or by embeddings.

Both give a number for each tool that fits at all, 1 for the one that fits best.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from operator import mul
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from flowkit.errors import BadModelAnswer
from flowkit.node import AnyNode
from flowkit.nodes.fulltext import indexed, terms_of
from flowkit.nodes.toolcall import tool_schemas

if TYPE_CHECKING:
    import sqlite3

WEIGHTS: Final = (5.0, 3.0, 1.0)
"""What a word counts in a tool's name, description and parameters; chosen on half of a public set
of questions, see benchmarks/README.md."""

TERMS_MAX: Final = 128
TEXT_CHARS_MAX: Final = 8_000
"""Of one text that is embedded: some 2,000 tokens, which every server takes."""

BATCH: Final = 128
"""Texts in one request for embeddings."""

_STOP: Final = frozenset(
    [
        "a",
        "about",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "d",
        "did",
        "do",
        "does",
        "for",
        "from",
        "get",
        "give",
        "had",
        "has",
        "have",
        "he",
        "her",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "let",
        "like",
        "ll",
        "m",
        "may",
        "me",
        "might",
        "my",
        "no",
        "not",
        "of",
        "on",
        "or",
        "our",
        "please",
        "re",
        "s",
        "she",
        "should",
        "show",
        "so",
        "t",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "us",
        "use",
        "using",
        "ve",
        "want",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "why",
        "will",
        "with",
        "would",
        "yes",
        "you",
        "your",
    ]
)
"""English words that tell nothing of a tool, and would make a long task slow to look up."""

_JOINTS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-./]+")


class Embedder(Protocol):
    """Turns texts into vectors; `OpenAIModel` is one. Vectors of one embedder have one length."""

    @property
    def name(self) -> str: ...

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...


class Relevance(Protocol):
    """Scores tools for a task."""

    async def scores(self, query: str) -> Mapping[str, float]:
        """By tool's name, from 0 to 1, the best tool 1; tools that do not fit at all are left out."""
        ...


def words_of(text: str) -> str:
    """The text with identifiers taken apart: `getUserName`, `get_user.name` as three words each."""
    return _JOINTS.sub(" ", text)


class WordIndex:
    """BM25 over names, descriptions and parameters, by SQLite's FTS5 in memory.

    With its k1 = 1.2 and b = 0.75, Porter's stemmer, and `WEIGHTS` for the three columns.
    """

    def __init__(self, tools: Sequence[AnyNode]) -> None:
        self._tools = tools
        self._lock = threading.Lock()
        self._index: sqlite3.Connection | None = None

    async def scores(self, query: str) -> Mapping[str, float]:
        terms = [
            term
            for term in terms_of(words_of(query), TERMS_MAX * 2)
            if term.strip('"*') not in _STOP
        ]
        if not terms:
            return {}
        with self._lock:
            if self._index is None:
                self._index = _index_of(self._tools)
                weakref.finalize(self, self._index.close)
            rows: list[tuple[int, float]] = self._index.execute(
                "SELECT rowid, -bm25(tools, ?, ?, ?) AS fit FROM tools WHERE tools MATCH ? "
                "ORDER BY fit DESC, rowid",
                (*WEIGHTS, " OR ".join(terms[:TERMS_MAX])),
            ).fetchall()
        best = rows[0][1] if rows else 0.0
        return {self._tools[row].name: max(fit / best, 0.0) for row, fit in rows}


class VectorIndex:
    """Cosine similarity of embeddings; those of the tools are made once, at the first query."""

    def __init__(self, tools: Sequence[AnyNode], embedder: Embedder) -> None:
        self._tools = tools
        self._embedder = embedder
        self._vectors: Sequence[Sequence[float]] = ()

    async def scores(self, query: str) -> Mapping[str, float]:
        if not self._vectors:
            texts = [f"{words_of(tool.name)}: {tool.description}" for tool in self._tools]
            made: list[Sequence[float]] = []
            for start in range(0, len(texts), BATCH):
                made += await self._embed(texts[start : start + BATCH])
            self._vectors = made
        (asked,) = await self._embed([query])
        if any(len(each) != len(asked) for each in self._vectors):
            raise BadModelAnswer(f"{self._embedder.name} gave vectors of several lengths.")
        found = [sum(map(mul, asked, each)) for each in self._vectors]
        # Cosines lie close together, wherever a model puts them; what tells is which is how far up.
        low, high = min(found), max(found)
        spread = high - low or 1.0
        names = [tool.name for tool in self._tools]
        ranked = sorted(zip(names, found, strict=True), key=lambda each: -each[1])
        return {name: (value - low) / spread for name, value in ranked if value > low}

    async def _embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        vectors = await self._embedder.embed([text[:TEXT_CHARS_MAX] for text in texts])
        if len(vectors) != len(texts):
            raise BadModelAnswer(
                f"{self._embedder.name} gave {len(vectors)} vectors for {len(texts)} texts."
            )
        return [_unit(vector) for vector in vectors]


def _unit(vector: Sequence[float]) -> Sequence[float]:
    length = sqrt(sum(map(mul, vector, vector))) or 1.0
    return [value / length for value in vector]


def _index_of(tools: Sequence[AnyNode]) -> sqlite3.Connection:
    import sqlite3  # only a planner with a router pays

    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    try:
        connection.execute(
            "CREATE VIRTUAL TABLE tools USING fts5(name, description, parameters, content='', "
            "tokenize='porter unicode61 remove_diacritics 2')"
        )
        connection.execute("BEGIN")
        for row, schema in enumerate(tool_schemas(tools)):
            texts = schema["name"], schema["description"], " ".join(_said(schema["parameters"]))
            connection.execute(
                "INSERT INTO tools (rowid, name, description, parameters) VALUES (?, ?, ?, ?)",
                (row, *(indexed(words_of(text)) for text in texts)),
            )
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        connection.close()
        raise RuntimeError(
            f"SQLite {sqlite3.sqlite_version} cannot index tools ({error}); a router needs its FTS5, "
            f"or an embedder."
        ) from error
    return connection


def _said(schema: object) -> Iterator[str]:
    """What a schema says in words: names of properties, descriptions, and the values of enums."""
    if isinstance(schema, list):
        for part in cast("list[object]", schema):
            yield from _said(part)
    if not isinstance(schema, dict):
        return
    for word, part in cast("dict[str, Any]", schema).items():
        if word == "description":
            yield str(part)
        elif word == "enum":
            yield from (each for each in part if isinstance(each, str))
        elif word == "properties":
            for name, inner in part.items():
                yield name
                yield from _said(inner)
        elif word == "$defs":
            yield from _said(list(part.values()))
        else:
            yield from _said(part)
