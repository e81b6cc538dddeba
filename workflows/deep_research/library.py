"""The documents of a run: those that ship or a folder's, kept as an artifact when the run begins.

A resume, on this machine or another, sees the same documents, and so do the verifier and the report,
whatever has happened to the folder meanwhile.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import anyio.to_thread

from flowkit import Artifact, Context
from flowkit.nodes.tools.corpus import Corpus

SHIPPED = "lighthouses"


def load(folder: str) -> tuple[str, bytes]:
    """Name and content of a library: of a folder, or of the documents that ship."""
    if folder:
        path = Path(folder).expanduser()
        return path.resolve().name or str(path), Corpus.from_folder(path).to_json()
    place = files("flowkit.workflows.deep_research") / "data" / SHIPPED
    with as_file(place) as path:
        return SHIPPED, Corpus.from_folder(path).to_json()


async def opened(ctx: Context, snapshot: Artifact) -> Corpus:
    """The library of a run, indexed; the last few are kept in memory."""
    return await anyio.to_thread.run_sync(_indexed, await ctx.read(snapshot))


@lru_cache(maxsize=4)
def _indexed(data: bytes) -> Corpus:
    return Corpus.from_json(data)
