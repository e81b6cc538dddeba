"""Ready-made tools, to give to a planner or to place in a workflow as any other."""

from __future__ import annotations

from flowkit.nodes.tools.calculate import calculate
from flowkit.nodes.tools.corpus import Corpus, corpus_search, read_page
from flowkit.nodes.tools.documents import Document
from flowkit.nodes.tools.python import python_tool

__all__ = ["Corpus", "Document", "calculate", "corpus_search", "python_tool", "read_page"]
