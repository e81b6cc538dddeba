"""The web for planners: fetching without being sent to where the host alone may go, and reading pages."""

from __future__ import annotations

from flowkit.nodes.tools.web.browser import Browser
from flowkit.nodes.tools.web.client import Answer, Refused, Web
from flowkit.nodes.tools.web.pages import Fetched, FetchQuery, fetch, read_page
from flowkit.nodes.tools.web.search import Brave, Ddgs, Searcher, SearXNG, web_search

__all__ = [
    "Answer", "Brave", "Browser", "Ddgs", "FetchQuery", "Fetched", "Refused", "SearXNG", "Searcher", "Web", "fetch",
    "read_page", "web_search",
]  # fmt: skip
