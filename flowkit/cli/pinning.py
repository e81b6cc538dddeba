"""`flowkit mcp pin`: ask the MCP servers of a workflow what they offer, and write it down for review."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio

from flowkit.cli import exits
from flowkit.cli.exits import Problem, say
from flowkit.cli.targets import Target, load_target
from flowkit.cli.text import clean, counted, to_json
from flowkit.errors import DeclarationError

if TYPE_CHECKING:
    from flowkit.nodes.tools.mcp import McpServer, Offer

_SERVERS_MAX = 100


class Pinned(NamedTuple):
    """A server, its lock file, and what was found: "+ tool", "- tool", "~ tool (parts)"."""

    server: str
    lock: Path
    tools: int
    changes: Sequence[str]


def pin(target: str, *, check: bool, json: bool) -> int:
    """Pin every server of a workflow; with `check` only tell what has changed, in the exit code too."""
    found = [_pin(server, lock, check=check) for server, lock in _servers(target, check=check)]
    if not found:
        raise Problem(f"{target} has no tools of MCP servers that were made with a lock file.")
    for each in found:
        if json:
            data = {**each._asdict(), "lock": str(each.lock), "changes": list(each.changes)}
            print(to_json(data))
            continue
        done = "not as in" if check and each.changes else "as in" if check else "pinned in"
        print(f"{each.server}: {counted(each.tools, 'tool')}, {done} {clean(each.lock)}")
        for line in each.changes:
            print(f"  {clean(line, 200)}")
    if check and any(each.changes for each in found):
        return exits.FAILED
    return exits.SUCCESS


def _servers(text: str, *, check: bool) -> Iterator[tuple[McpServer, Path]]:
    """The servers of a workflow with their lock files; those first without which it cannot be declared."""
    from flowkit.nodes.tools.mcp import McpTool, NotPinned

    done: set[tuple[str, Path]] = set()
    target: Target | None = None
    while target is None:
        try:
            target = load_target(text)
        except Problem as problem:
            missing = problem.__cause__
            if not isinstance(missing, NotPinned) or check or len(done) > _SERVERS_MAX:
                raise
            assert missing.lock
            yield missing.server, missing.lock
            done.add((missing.server.name, missing.lock))
    for node in target.workflow.nodes.values():
        if isinstance(node, McpTool) and node.lock and (node.server.name, node.lock) not in done:
            yield node.server, node.lock
            done.add((node.server.name, node.lock))


def _pin(server: McpServer, lock: Path, *, check: bool) -> Pinned:
    from flowkit.nodes.tools.mcp import (
        McpConnections,
        McpUnavailable,
        NotPinned,
        read_lock,
        seen,
        write_lock,
    )

    async def ask() -> Sequence[Offer]:
        async with McpConnections() as mcp:
            return await mcp.offers(server)

    try:
        before = read_lock(lock, server)
    except NotPinned:
        before = ()
    try:
        now = anyio.run(ask)
    except (McpUnavailable, DeclarationError) as error:
        raise Problem(str(error), exits.TRY_LATER) from error
    for each in now:
        if seen(each.description) != each.description:
            say(
                f"{server.name}: the description of {each.name} has characters that nobody sees; models never get them."
            )
    if not check:
        write_lock(lock, server.name, now)
    return Pinned(server.name, lock, len(now), _changes(before, now))


def _changes(before: Sequence[Offer], now: Sequence[Offer]) -> list[str]:
    old, new = {each.name: each for each in before}, {each.name: each for each in now}
    lines = [f"+ {name}" for name in new if name not in old]
    lines += [f"- {name}" for name in old if name not in new]
    for name in old.keys() & new.keys():
        if parts := old[name].changed(new[name]):
            lines.append(f"~ {name} ({', '.join(parts)})")
    return sorted(lines, key=lambda line: line[2:])
