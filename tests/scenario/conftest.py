"""The rules run in virtual time, on both event loops; other scenarios in real time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.kit import backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Both event loops; a `test_rules_` module has a clock that jumps, unless it says REAL_TIME."""
    node: Any = request.node
    virtual = node.path.name.startswith("test_rules_") and not hasattr(node.module, "REAL_TIME")
    return backend(request.param) if virtual else str(request.param)
