"""Language models behind one protocol (`flowkit.ports.Model`).

`OpenAIModel` speaks to any OpenAI-compatible server; `LocalModel` runs a GGUF file in this process;
`OfflineModel` stands in where none is configured. Importing this package loads none of them; the
openai SDK, and llama.cpp, are loaded at the first request.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flowkit.errors import (
        BadModelAnswer,
        BadModelRequest,
        ContentFiltered,
        ContextOverflow,
        ModelAuthError,
        ModelError,
        ModelNotFound,
        ModelUnavailable,
        NoModel,
        QuotaExhausted,
        RateLimited,
    )
    from flowkit.model.local import LocalModel
    from flowkit.model.offline import OfflineModel, facts
    from flowkit.model.openai import OpenAIModel
    from flowkit.model.profile import Profile

__all__ = [
    "BadModelAnswer",
    "BadModelRequest",
    "ContentFiltered",
    "ContextOverflow",
    "LocalModel",
    "ModelAuthError",
    "ModelError",
    "ModelNotFound",
    "ModelUnavailable",
    "NoModel",
    "OfflineModel",
    "OpenAIModel",
    "Profile",
    "QuotaExhausted",
    "RateLimited",
    "facts",
]

_HOMES: Final = MappingProxyType(
    {
        "LocalModel": "flowkit.model.local",
        "OfflineModel": "flowkit.model.offline",
        "OpenAIModel": "flowkit.model.openai",
        "Profile": "flowkit.model.profile",
        "facts": "flowkit.model.offline",
    }
)


def __getattr__(name: str) -> object:
    """Load what is asked for; error classes are the rest of `__all__`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "flowkit.errors")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
