"""Tools of MCP servers, for planners and workflows. The SDK (extra `mcp`) is loaded by the first call."""

from __future__ import annotations

from flowkit.nodes.tools.mcp.connections import (
    McpCallLost,
    McpConnections,
    McpToolChanged,
    McpToolFailed,
    McpUnavailable,
)
from flowkit.nodes.tools.mcp.offers import NotPinned, Offer, write_lock
from flowkit.nodes.tools.mcp.results import McpResult
from flowkit.nodes.tools.mcp.server import McpServer
from flowkit.nodes.tools.mcp.tool import McpTool, mcp_tools

__all__ = [
    "McpCallLost",
    "McpConnections",
    "McpResult",
    "McpServer",
    "McpTool",
    "McpToolChanged",
    "McpToolFailed",
    "McpUnavailable",
    "NotPinned",
    "Offer",
    "mcp_tools",
    "write_lock",
]
