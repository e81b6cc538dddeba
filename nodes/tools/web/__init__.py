"""The web for planners: fetching without being sent to where the host alone may go, and reading pages."""

from __future__ import annotations

from flowkit.nodes.tools.web.client import Answer, Refused, Web
from flowkit.nodes.tools.web.pages import Fetched, FetchQuery, fetch, read_page

__all__ = ["Answer", "FetchQuery", "Fetched", "Refused", "Web", "fetch", "read_page"]
