"""Tools of MCP servers, for planners and workflows. The SDK (extra `mcp`) is loaded by the first call."""

from __future__ import annotations

from flowkit.nodes.tools.mcp.connections import (
    McpCallLost,
    McpConnections,
    McpToolChanged,
    McpToolFailed,
    McpUnavailable,
    check_installed,
)
from flowkit.nodes.tools.mcp.offers import NotPinned, Offer, read_lock, seen, write_lock
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
    "check_installed",
    "mcp_tools",
    "read_lock",
    "seen",
    "write_lock",
]
