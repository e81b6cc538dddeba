"""Stores: where journals and artifacts are kept. `SqlStore` keeps them in a database file.

SQLAlchemy is loaded when `SqlStore` is first asked for, not by `import flowkit.store`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit.store.memory import MemoryStore
    from flowkit.store.sql import SqlStore

__all__ = ["MemoryStore", "SqlStore"]


def __getattr__(name: str) -> Any:
    if name == "MemoryStore":
        return import_module("flowkit.store.memory").MemoryStore
    if name == "SqlStore":
        return import_module("flowkit.store.sql").SqlStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
