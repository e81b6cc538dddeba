"""Workflows that are shipped as products, and as examples to copy.

Each one is a package that offers its `@workflow`, `EXAMPLE` (an input that needs no network) and
`OFFLINE_RULES` (how `flowkit.model.offline.OfflineModel` computes the answers it is asked for).
Importing this package imports none of them; what they need is installed with `flowkit[workflows]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["shipped"]

_SHIPPED = MappingProxyType(
    {
        "deep_research": "flowkit.workflows.deep_research:deep_research",
        "newsroom": "flowkit.workflows.newsroom:newsroom",
        "operations_report": "flowkit.workflows.operations_report:operations_report",
        "stock_analysis": "flowkit.workflows.stock_analysis:stock_analysis",
        "web_game": "flowkit.workflows.web_game:web_game",
    },
)


def shipped() -> Mapping[str, str]:
    """Name of each shipped workflow, and its target as `module:object`."""
    return _SHIPPED
