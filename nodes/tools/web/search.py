"""`web_search`: one tool, and whom it asks: SearXNG, the library `ddgs`, or a hosted API by key.

engine = Engine(store, resources=[Web(allow=frozenset({"search.internal:8080"})),
                                  SearXNG("http://search.internal:8080")])
Planner(..., tools=[web_search | corpus_search, read_page])
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, cast
from urllib.parse import urlencode

import anyio.to_thread

from flowkit.node import Context
from flowkit.nodes.tool import tool
from flowkit.nodes.tools.corpus import Hit, Hits, SearchQuery
from flowkit.nodes.tools.web.client import Unreachable, Web
from flowkit.nodes.tools.web.pages import web_of

SNIPPET_CHARACTERS: Final = 400


class Searcher:
    """Whom `web_search` asks; subclass it for another one.

    `search` gives hits whose ids are addresses, best first; raises `Unreachable`.
    """

    async def search(self, web: Web, query: str, limit: int) -> Sequence[Hit]:
        raise NotImplementedError(f"{type(self).__name__} does not search")


class SearXNG(Searcher):
    """A SearXNG server with its JSON format switched on (`search.formats` in its settings)."""

    def __init__(self, url: str, *, language: str = "auto") -> None:
        self.url = url.rstrip("/")
        self.language = language

    async def search(self, web: Web, query: str, limit: int) -> Sequence[Hit]:
        asked = urlencode({"q": query, "format": "json", "language": self.language})
        answer = await web.get(f"{self.url}/search?{asked}", accept="application/json")
        if answer.status == 403:
            raise Unreachable("the SearXNG server gives no JSON: add json to its search.formats.")
        found = _results(answer.status, answer.body, "results")
        return _hits(found, limit, "url", "title", "content")


class Brave(Searcher):
    """Brave's search API, with a key; by default that of the variable BRAVE_API_KEY."""

    def __init__(
        self, key: str = "", *, url: str = "https://api.search.brave.com/res/v1/web/search"
    ) -> None:
        self._key = key
        self.url = url

    async def search(self, web: Web, query: str, limit: int) -> Sequence[Hit]:
        key = self._key or os.environ.get("BRAVE_API_KEY", "")
        if not key:
            raise Unreachable("no key for the search: set BRAVE_API_KEY, or give Brave(key).")
        answer = await web.get(
            f"{self.url}?{urlencode({'q': query, 'count': min(limit, 20)})}",
            accept="application/json", headers={"X-Subscription-Token": key},
        )  # fmt: skip
        found = _results(answer.status, answer.body, "web", "results")
        return _hits(found, limit, "url", "title", "description")


class Ddgs(Searcher):
    """The library `ddgs`, which asks public search engines without a key, in a thread of its own.

    It makes its own connections; what it finds is read through `Web` like everything else.
    """

    async def search(self, web: Web, query: str, limit: int) -> Sequence[Hit]:
        def ask() -> list[Mapping[str, Any]]:
            try:
                library: Any = import_module("ddgs")
                failures: Any = import_module("ddgs.exceptions").DDGSException
            except ImportError as error:
                raise Unreachable("searching this way needs ddgs: pip install ddgs") from error
            try:
                return cast(
                    "list[Mapping[str, Any]]", library.DDGS().text(query, max_results=limit)
                )
            except failures as error:
                raise Unreachable(f"the search engines do not answer: {error}.") from error

        found = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
        return _hits(found, limit, "href", "title", "body")


@tool(timeout_s=60, untrusted_output=True)
async def web_search(ctx: Context, search: SearchQuery) -> Hits:
    """Search the web. Gives addresses, titles and snippets, best first; read a page before you rely on
    it."""
    hits = await ctx.resource(Searcher).search(web_of(ctx), search.query, search.limit)
    note = "" if hits else "Nothing found. Try fewer or other words, names, or synonyms."
    return Hits(query=search.query, hits=list(hits), documents=0, note=note)


def _results(status: int, body: bytes, *path: str) -> Sequence[Mapping[str, Any]]:
    if status != 200:
        raise Unreachable(f"the search answers HTTP {status}. Try again later, or another source.")
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreachable("the search gives something that is no JSON.") from error
    for name in path:
        data = cast("dict[str, Any]", data).get(name) if isinstance(data, dict) else None
    return cast("list[Mapping[str, Any]]", data) if isinstance(data, list) else []


def _hits(
    found: Sequence[Mapping[str, Any]], limit: int, url: str, title: str, text: str
) -> list[Hit]:
    """Hits with addresses that could be read, each once."""
    hits: dict[str, Hit] = {}
    for each in found:
        if not isinstance(each, dict):  # as a server sent it
            continue
        place = str(each.get(url) or "")
        if place.startswith(("http://", "https://")) and len(place) <= 300 and place not in hits:
            snippet = " ".join(str(each.get(text) or "").split())[:SNIPPET_CHARACTERS]
            name = " ".join(str(each.get(title) or place).split())[:300]
            hits[place] = Hit(id=place, title=name, snippet=snippet, score=1 / (len(hits) + 1))
        if len(hits) == limit:
            break
    return list(hits.values())
