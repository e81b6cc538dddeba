"""router: how often the right tool is among the k that a router chooses, beside plain BM25.

The data are those of the Berkeley Function-Calling Leaderboard, as the wheel `bfcl-eval` has them:

    pip download --no-deps bfcl-eval && unzip -q bfcl_eval-*.whl
    python -m benchmarks router --data bfcl_eval/data

Without `--data` it measures a made-up sample of the same form, which says nothing but that it works.
Functions of all categories are one pool, each name once. Of it 100 and 1,000 are drawn (seeded, several
times), with the questions of which every right function is there. The router's settings were chosen on
one half of the questions; what is printed was measured on the other.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypeVar, cast

from pydantic import WithJsonSchema

from benchmarks.report import Figure, Row, at_least, median
from flowkit.node import AnyNode
from flowkit.nodes.gating import Record
from flowkit.nodes.relevance import WordIndex
from flowkit.nodes.router import FindTools
from flowkit.nodes.toolcall import tool_schemas
from flowkit.policy import Policy

T = TypeVar("T")

K = 8
SAMPLE = Path(__file__).parent / "router_sample"
POOLS = {100: 20, 1000: 3}
"""Sizes, and how often a pool of that size is drawn."""

Choose = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Question:
    """What a user asks, and the names of the tools that answer it."""

    id: str
    text: str
    right: frozenset[str]

    @property
    def held_out(self) -> bool:
        """Whether no setting was chosen by it: Knuth's multiplicative hash of the id's end."""
        return (int.from_bytes(self.id.encode()[-4:], "big") * 2654435761 >> 7) % 2 == 1


def rows(n: int | None, repeats: int, data: Path | None = None) -> Iterator[Row]:
    tools, questions = read(data or SAMPLE)
    asked = [each for each in questions if each.held_out]
    for size in sorted({min(each, len(tools)) for each in ([n] if n else POOLS)}):
        draws = POOLS.get(size, repeats) if size < len(tools) else 1
        yield measure(tools, asked, size, draws, "BFCL" if data else "the made-up sample")


def measure(
    tools: Mapping[str, AnyNode], questions: Sequence[Question], size: int, draws: int, source: str
) -> Row:
    ways: dict[str, Callable[[Sequence[AnyNode]], Choose]] = {
        "plain_bm25": plain,
        "router": lambda pool: routed(pool, None),
        "router_exploring": lambda pool: routed(pool, Random(1)),
    }
    hits, taken = dict.fromkeys(ways, 0), {name: list[float]() for name in ways}
    asked = 0
    for seed in range(1, draws + 1):
        names = sorted(tools)
        Random(seed).shuffle(names)
        pool = names[:size]
        fitting = [each for each in questions if each.right <= set(pool)]
        asked += len(fitting)
        for name, make in ways.items():
            choose = make([tools[each] for each in pool])
            choose("warm up")
            for question in fitting:
                began = time.perf_counter()
                chosen = choose(question.text)
                taken[name].append(time.perf_counter() - began)
                hits[name] += question.right <= set(chosen)
    figures: dict[str, Figure] = {}
    recall = {name: hits[name] / max(asked, 1) for name in ways}
    for name in ways:
        value = Figure(recall[name])
        better = at_least(recall[name], recall["plain_bm25"])
        figures[f"{name}_recall_at_{K}"] = better if name == "router" else value
        figures[f"{name}_us"] = Figure(median(taken[name] or [0.0]) * 1e6)
    settings = {"data": source, "questions": asked, "draws": draws, "k": K, "shared": 0}
    return Row("router", size, figures, settings)


def plain(tools: Sequence[AnyNode]) -> Choose:
    """SQLite's bm25 (k1 = 1.2, b = 0.75) over name, description and parameters as one text.

    All words as they stand, without stems, weights or a list of stop words; identifiers whole.
    """
    index = sqlite3.connect(":memory:")
    index.execute("CREATE VIRTUAL TABLE tools USING fts5(text, tokenize='unicode61')")
    texts = [(json.dumps(schema, ensure_ascii=False),) for schema in tool_schemas(tools)]
    index.executemany("INSERT INTO tools (text) VALUES (?)", texts)

    names = [tool.name for tool in tools]

    def choose(query: str) -> Sequence[str]:
        words = dict.fromkeys(re.findall(r"\w+", query.lower()))
        match = " OR ".join(f'"{word}"' for word in words)
        found = index.execute(
            "SELECT rowid FROM tools WHERE tools MATCH ? ORDER BY bm25(tools), rowid LIMIT ?",
            (match or '""', K),
        )
        return [names[int(row) - 1] for (row,) in found]

    return choose


def routed(tools: Sequence[AnyNode], chance: Random | None) -> Choose:
    """The router; with `chance` as one that knows nothing of any tool yet, and tries."""
    index = WordIndex(tools)
    node = FindTools("find_tools", tools, (), K, index)

    def choose(query: str) -> Sequence[str]:
        choice = node.choice(_now(index.scores(query)), lambda _: Record(), chance)
        return [each.tool for each in choice.tools]

    return choose


def _now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    raise RuntimeError("it waits")


# ---- the data


def read(folder: Path) -> tuple[Mapping[str, AnyNode], Sequence[Question]]:
    """All functions by name, the first of each name; and the questions that these answer."""
    functions: dict[str, dict[str, Any]] = {}
    questions: list[Question] = []
    for file in sorted(folder.glob("BFCL_v4_*.json")):
        answers = {each["id"]: each.get("ground_truth") for each in _lines(_answers(file))}
        for line in _lines(file):
            given = {each["name"]: each for each in line.get("function") or ()}
            same = {
                name
                for name, each in given.items()
                if functions.setdefault(name, each)["description"] == each["description"]
            }
            right = _names(answers.get(line["id"]))
            if right and right <= same:
                said = [each["content"] for each in line["question"][0] if each["role"] == "user"]
                asked = frozenset(map(_name, right))
                questions.append(Question(line["id"], "\n".join(said), asked))
    for file in sorted(folder.glob("multi_turn_func_doc/*.json")):
        for each in _lines(file):
            functions.setdefault(each["name"], each)
    return {_name(name): _tool(each) for name, each in functions.items()}, questions


def _answers(file: Path) -> Path:
    return file.parent / "possible_answer" / file.name


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; nothing where there is none, or another form."""
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _names(truth: object) -> set[str]:
    if not isinstance(truth, list):
        return set()
    calls = cast("list[object]", truth)
    return {
        name for call in calls if isinstance(call, dict) for name in cast("dict[str, Any]", call)
    }


def _name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def _tool(function: Mapping[str, Any]) -> AnyNode:
    properties = cast("dict[str, Any]", function["parameters"].get("properties") or {})
    takes = {name: Annotated[Any, WithJsonSchema(part)] for name, part in properties.items()}
    made = AnyNode(_name(function["name"]), takes, str, Policy())
    made.description = function["description"]
    return made
