"""`mcp_tools`: a server's tools as tools of flowkit, made of what was pinned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from flowkit.errors import DeclarationError, OutcomeUnknown
from flowkit.node import Context
from flowkit.nodes.options import TrustOptions, trust_of
from flowkit.nodes.tools.mcp.connections import (
    McpCallLost,
    McpConnections,
    McpToolFailed,
    check_installed,
)
from flowkit.nodes.tools.mcp.offers import (
    DESCRIPTION_CHARACTERS_MAX,
    Offer,
    read_lock,
    seen,
    seen_schema,
)
from flowkit.nodes.tools.mcp.results import McpResult, kept, said
from flowkit.nodes.tools.mcp.server import McpServer
from flowkit.nodes.tools.schema import SchemaTool
from flowkit.policy import Effect, Policy, Trust
from flowkit.values import digest

IDEMPOTENCY_KEY: Final = "flowkit/idempotencyKey"
"""Where a call's `_meta` has the step's idempotency key, hashed: the same on every repeat."""

_ERROR_CHARACTERS_MAX: Final = 3_500


class McpTool(SchemaTool[McpResult]):
    """A tool of an MCP server. Made by `mcp_tools`."""

    def __init__(self, server: McpServer, offer: Offer, lock: Path | None, policy: Policy) -> None:
        described = seen(offer.description or offer.title, DESCRIPTION_CHARACTERS_MAX)
        schema = seen_schema(offer.schema)
        super().__init__(name_of(server, offer), described, schema, McpResult, policy)
        self.server = server
        self.offer = offer
        self.lock = lock

    def fingerprinted(self) -> Sequence[str]:
        return (*super().fingerprinted(), self.offer.digest())

    async def run(self, ctx: Context, /, arguments: dict[str, Any]) -> McpResult:
        self.check(arguments)

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told = {"progress": done, "total": total, "message": seen(message or "", 500)}
            ctx.progress({key: each for key, each in told.items() if each not in (None, "")})

        try:
            answer = await ctx.resource(McpConnections).call(
                self.server, self.offer, arguments, progress=progress,
                meta={IDEMPOTENCY_KEY: digest(ctx.idempotency_key)[:32]},
            )  # fmt: skip
        except McpCallLost as lost:
            if self.policy.effect == "once":
                raise OutcomeUnknown(str(lost)) from None
            raise
        if answer.is_error:
            told = said(answer) or "it did not say why"
            raise McpToolFailed(seen(told, _ERROR_CHARACTERS_MAX))
        return await kept(ctx, answer)


def mcp_tools(
    server: McpServer,
    lock: Path | Sequence[Offer],
    *,
    only: Sequence[str] = (),
    effects: Mapping[str, Effect] | None = None,
    trust: TrustOptions | None = None,
    timeout_s: float | None = 60.0,
    retries: int = 0,
    concurrency: int | None = None,
) -> list[McpTool]:
    """The tools of an MCP server, as they were pinned; nothing is asked, and nothing started.

    Args:
        lock: the file that `flowkit mcp pin` has written; or what `McpConnections.offers` gave, for a
            service that takes the servers it is told at run time.
        only: the names of those to take, as the server has them; by default all.
        effects: what a call does, by the server's name of the tool. Without it the server's own
            word counts: `readOnlyHint` is "pure", `idempotentHint` "idempotent", else "once".
        trust: of all of them, such as `{"reads_private": False}`. By default what they give is private and
            untrusted, and all that are not "pure" have an effect outside.
        timeout_s, retries, concurrency: of each tool; "once" is not tried again.

    Raises:
        DeclarationError: two names that become the same, a name that is not offered, a schema that is
            none; `NotPinned` where the lock has nothing of the server.
    """
    check_installed()
    path = lock if isinstance(lock, Path) else None
    offers = read_lock(lock, server) if isinstance(lock, Path) else lock
    _check_offered(server, offers, [*only, *(effects or {})])
    given = Policy(retries, timeout_s, concurrency=concurrency)
    made: dict[str, McpTool] = {}
    for offer in offers:
        if only and offer.name not in only:
            continue
        effect = (effects or {}).get(offer.name) or effect_of(offer)
        policy = replace(
            given,
            effect=effect,
            retries=0 if effect == "once" else retries,
            trust=trust_of(Trust(True, True, effect != "pure"), trust or {}),
        )
        tool = McpTool(server, offer, path, policy)
        if tool.name in made:
            raise DeclarationError(
                f"MCP server {server.name!r}: {offer.name!r} and {made[tool.name].offer.name!r} would both be "
                f"named {tool.name!r}. Take one of them, with only=."
            )
        made[tool.name] = tool
    return list(made.values())


def effect_of(offer: Offer) -> Effect:
    """What the server says of a call's effect. It is its word alone: the host may know better."""
    told = offer.annotations
    if told.get("readOnlyHint") is True:
        return "pure"
    return "idempotent" if told.get("idempotentHint") is True else "once"


def name_of(server: McpServer, offer: Offer) -> str:
    """`server_tool`, in the characters of a name; one that is too long ends with a hash."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server.name}_{offer.name}")
    return name if len(name) <= 64 else f"{name[:55]}_{digest(offer.name)[:8]}"


def _check_offered(server: McpServer, offers: Sequence[Offer], wanted: Sequence[str]) -> None:
    names = [each.name for each in offers]
    for name in wanted:
        if name not in names:
            raise DeclarationError(
                f"MCP server {server.name!r} has no tool {name!r} pinned; it has: {', '.join(names) or 'none'}."
            )
